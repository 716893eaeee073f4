"""What is kept of others' footers, what is a difference, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.base.errors import ConfigError, DataRefused
from jobs.train.order.fingerprint import check_fingerprint
from jobs.train.read.folder import Folder
from tests.builders.folders import ROLES, rows_of, stream_of, table, write_plain


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, where footers are kept."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_plain(tmp_path / "plain")


def count_footers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose footers are read from now on."""
    opened: list[str] = []
    read_metadata = pq.read_metadata

    def counted(file: Any) -> Any:
        opened.append(Path(file.path).name)
        return read_metadata(file)

    monkeypatch.setattr(pq, "read_metadata", counted)
    return opened


def test_footers_are_read_once_and_kept_outside_the_folder(
    plain: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path for path in plain.rglob("*"))
    opened = count_footers(monkeypatch)
    first = Folder.open(str(plain), **ROLES)
    assert sorted(opened) == ["0.parquet", "40.parquet", "75.parquet"]
    assert Folder.open(str(plain), **ROLES).files == first.files
    assert len(opened) == 3

    assert sorted(path for path in plain.rglob("*")) == before
    assert len(list(cache.rglob("*.json"))) == 1
    asked = f"{plain}/_footers.json"
    assert Folder.open(str(plain), footers_at=asked, **ROLES).files == first.files
    assert Path(asked).exists()

    pq.write_table(table(200, 5), plain / "day=1" / "0.parquet")
    changed = Folder.open(str(plain), **ROLES)
    assert opened[6:] == ["0.parquet"]
    assert [file.row_group_rows for file in changed.files] == [(5,), (15, 15, 5), (15, 10)]


def test_a_file_that_changes_after_the_look_is_refused(plain: Path) -> None:
    folder = Folder.open(str(plain), **ROLES)
    pq.write_table(
        table(500, 35), plain / "day=2" / "40.parquet", row_group_size=15, compression=None
    )

    with pytest.raises(DataRefused, match=r"day=2/40\.parquet: the file has \d+ bytes by now"):
        rows_of(folder)


def fingerprint(plain: Path, **changes: Any) -> dict[str, Any]:
    return stream_of(Folder.open(str(plain), **ROLES), **changes).fingerprint


def test_files_renamed_or_written_again_are_no_difference(plain: Path) -> None:
    before = fingerprint(plain)
    order = [b.row_id.tolist() for b in stream_of(Folder.open(str(plain), **ROLES)).epoch(0)]

    (plain / "day=2" / "40.parquet").rename(plain / "day=2" / "zz.parquet")
    pq.write_table(table(0, 40), plain / "day=1" / "0.parquet", row_group_size=15)

    check_fingerprint(before, fingerprint(plain))
    after = [b.row_id.tolist() for b in stream_of(Folder.open(str(plain), **ROLES)).epoch(0)]
    assert after == order


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (table(0, 39), "day=1 had 40 rows, has 39"),
        (table(1, 40), "day=1 has other rows"),
        (None, "day=1 is gone"),
    ],
)
def test_changed_rows_are_named_by_their_partition(
    plain: Path, rows: pa.Table | None, message: str
) -> None:
    before = fingerprint(plain)
    unrelated = fingerprint(plain, where={"day": ["2"]})
    file = plain / "day=1" / "0.parquet"
    if rows is None:
        file.unlink()
    else:
        pq.write_table(rows, file, row_group_size=15)

    with pytest.raises(DataRefused, match=message) as refused:
        check_fingerprint(before, fingerprint(plain))
    assert "day=2" not in str(refused.value)
    check_fingerprint(unrelated, fingerprint(plain, where={"day": ["2"]}))
    with pytest.raises(DataRefused, match="where was None, is"):
        check_fingerprint(before, unrelated)


# Refusals


def test_what_is_no_parquet_is_named(plain: Path) -> None:
    (plain / "day=1" / "notes.txt").write_text("hello")

    with pytest.raises(DataRefused, match=r"footer of day=1/notes\.txt in .* cannot be read"):
        Folder.open(str(plain), **ROLES)


def test_folders_that_cannot_be_read_as_one_are_refused(plain: Path, tmp_path: Path) -> None:
    pq.write_table(table(0, 1), plain / "stray.parquet")
    with pytest.raises(DataRefused, match=r"partitioned by day, stray\.parquet by nothing"):
        Folder.open(str(plain), **ROLES)

    (tmp_path / "empty").mkdir()
    with pytest.raises(DataRefused, match="no Parquet file"):
        Folder.open(str(tmp_path / "empty"))

    (plain / "_delta_log").mkdir()
    (plain / "_delta_log" / "0.json").touch()
    with pytest.raises(DataRefused, match="is a Delta table"):
        Folder.open(str(plain))


def test_columns_and_choices_that_are_not_there_are_named(plain: Path) -> None:
    with pytest.raises(ConfigError, match=r"no column cost, tags in the folder's files"):
        Folder.open(str(plain), label="tags", dense=["cost"])
    folder = Folder.open(str(plain), **ROLES)
    with pytest.raises(ConfigError, match="names country, which partitions nothing"):
        stream_of(folder, where={"country": "DE"})
    with pytest.raises(ConfigError, match=r"names split, which.*\n.*here day"):
        stream_of(folder, split="train")


def test_texts_are_no_ids(plain: Path) -> None:
    folder = Folder.open(str(plain), label="clicked", sparse=["city"])

    with pytest.raises(DataRefused, match=r"column 'city' is string.*\n  expected: int32"):
        rows_of(folder)
