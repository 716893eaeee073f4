"""Which files are read: globs, dates, hidden names, and files that change."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from jobs.base.errors import ConfigError, DataRefused, NoRawFile
from jobs.rows.read.files import RawFile, find_files, refuse_changed
from jobs.rows.read.pieces import cut, read_rows, shares
from tests.rows.engines import WHOLE, files_of, raw_rows, write
from tests.rows.test_delimited import THINGS

NAMES = (
    "raw/2024-01-01/a.csv",
    "raw/2024-01-01/b.csv",
    "raw/2024-01-01/deep/er/c.csv",
    "raw/2024-01-01/_SUCCESS",
    "raw/2024-01-01/.a.csv.crc",
    "raw/2024-01-01/_temporary/0/d.csv",
    "raw/2024-01-01/deep/.staging/e.csv",
    "raw/2024-01-02/a.csv",
    "raw/2024-12-31-backfill/2024-01-01.csv",
    "raw/2024-12-31-backfill/2024-01-02.csv",
    "raw/_temporary/2024-01-01/f.csv",
    "raw/north/2024-01-01.csv",
    "raw/south/2024-01-01.csv",
    "raw/west/2024-01-01.csv",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("files"), dict.fromkeys(NAMES, "id,name\n1,a\n"))


def found(folder: Path, path: str, *dates: str) -> list[tuple[str, str]]:
    files = find_files(f"{folder}/{path}", dates or ("2024-01-01",))
    return [(file.ds, file.path.removeprefix(f"{folder}/raw/")) for file in files]


FIRST = "2024-01-01"


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("raw/2024-01-01", ["a.csv", "b.csv", "deep/er/c.csv"]),
        ("raw/2024-01-01/", ["a.csv", "b.csv", "deep/er/c.csv"]),
        ("raw/2024-01-01/*", ["a.csv", "b.csv", "deep/er/c.csv"]),
        ("raw/2024-01-01/*.csv", ["a.csv", "b.csv"]),
        ("raw/2024-01-01/?.csv", ["a.csv", "b.csv"]),
        ("raw/2024-01-01/[b-z].csv", ["b.csv"]),
        ("raw/2024-01-01/**/*.csv", ["a.csv", "b.csv", "deep/er/c.csv"]),
        ("raw/2024-01-01/**", ["a.csv", "b.csv", "deep/er/c.csv"]),
        ("raw/2024-01-01/*/*/*.csv", ["deep/er/c.csv"]),
        ("raw/2024-01-01/{a,deep/er/c}.csv", ["a.csv", "deep/er/c.csv"]),
        # What a path itself names is read.
        ("raw/2024-01-01/_temporary", ["_temporary/0/d.csv"]),
        ("raw/2024-01-01/_temporary/*/*.csv", ["_temporary/0/d.csv"]),
        ("raw/2024-01-01/_*/*/*.csv", ["_temporary/0/d.csv"]),
        ("raw/2024-01-01/**/.staging/*.csv", ["deep/.staging/e.csv"]),
        ("raw/2024-01-01/.a.csv.crc", [".a.csv.crc"]),
    ],
)
def test_paths_and_globs(path: str, names: list[str], folder: Path) -> None:
    assert found(folder, path) == [("", f"2024-01-01/{name}") for name in names]


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("raw/{ds}/*.csv", ["2024-01-01/a.csv", "2024-01-01/b.csv"]),
        ("raw/2024-12-31-backfill/{ds}.csv", ["2024-12-31-backfill/2024-01-01.csv"]),
        ("raw/*-backfill/{ds}.csv", ["2024-12-31-backfill/2024-01-01.csv"]),
        ("raw/[mn]o?th/{ds}.csv", ["north/2024-01-01.csv"]),
        ("raw/[ns]o*th/{ds}.csv", ["north/2024-01-01.csv", "south/2024-01-01.csv"]),
        ("raw/{north,west}/{ds}.csv", ["north/2024-01-01.csv", "west/2024-01-01.csv"]),
        (
            "raw/**/{ds}.csv",
            [
                "2024-12-31-backfill/2024-01-01.csv",
                "north/2024-01-01.csv",
                "south/2024-01-01.csv",
                "west/2024-01-01.csv",
            ],
        ),
        ("raw/*/{ds}", []),
    ],
)
def test_the_date_is_where_the_path_says(path: str, names: list[str], folder: Path) -> None:
    if not names:
        with pytest.raises(NoRawFile, match=r"no raw file matches .*raw/\*/2024-01-01"):
            found(folder, path)
    else:
        assert found(folder, path) == [(FIRST, name) for name in names]


def test_each_date_has_its_own_files(folder: Path) -> None:
    second = "2024-01-02"
    assert found(folder, "raw/*-backfill/{ds}.csv", FIRST, second) == [
        (FIRST, "2024-12-31-backfill/2024-01-01.csv"),
        (second, "2024-12-31-backfill/2024-01-02.csv"),
    ]
    with pytest.raises(NoRawFile, match=r"raw/2024-01-03.*, .*raw/2024-01-04.* and 1 more"):
        found(folder, "raw/{ds}", FIRST, *(f"2024-01-0{n}" for n in range(3, 7)))


def test_a_hidden_folder_above_hides_nothing(tmp_path: Path) -> None:
    write(tmp_path, {".data/_raw/a.csv": "", ".data/_raw/_b.csv": ""})
    for path in ("*.csv", "**/*.csv", "", "**"):
        (file,) = find_files(f"{tmp_path}/.data/_raw/{path}", [])
        assert file.path == f"{tmp_path}/.data/_raw/a.csv"


def test_a_store_without_a_client_is_named() -> None:
    with pytest.raises(ConfigError, match="no client for the store of nostore://raw"):
        find_files("nostore://raw/{ds}", ["2024-01-01"])


@pytest.mark.parametrize("content", ["id,name\n1,b\n", "id,name\n1,a\n2,b\n", None])
def test_a_file_that_changed_is_refused_by_name(content: str | None, tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.csv": "id,name\n1,a\n", "b.csv": "id,name\n1,a\n"})
    files = files_of(folder)
    pieces = cut(files, THINGS, WHOLE)
    if content is None:
        (folder / "b.csv").unlink()
    else:
        (folder / "b.csv").write_text(content)
    with pytest.raises(DataRefused, match=r"b\.csv changed while it was read: .* now") as refused:
        list(read_rows(pieces, THINGS))
    assert "run again when it has landed" in str(refused.value)
    refuse_changed(files[0])


def test_a_file_that_grows_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.rows.read.lines.BLOCK_BYTES", 64)
    monkeypatch.setattr("jobs.rows.read.pieces.TABLE_ROWS", 1)
    file = write(tmp_path, {"a.csv": "id,name\n" + "1,a\n" * 100}) / "a.csv"
    tables = read_rows(cut(files_of(file), THINGS, WHOLE), THINGS)
    next(tables)
    with file.open("a") as more:
        more.write("2,b\n")
    with pytest.raises(DataRefused, match=r"a\.csv changed while it was read"):
        list(tables)


@pytest.mark.parametrize("piece_bytes", [10, 64, 100, 128, 200, 3000])
def test_pieces_end_where_blocks_do(tmp_path: Path, piece_bytes: int) -> None:
    """A piece is a part of one block, or some whole ones; and the rows are the same."""
    content = "".join(f"{n},name\n" for n in range(130))
    (whole,) = files_of(write(tmp_path, {"a.csv": content}) / "a.csv")
    source = replace(THINGS, header=False)

    pieces = cut([replace(whole, block_bytes=64)], source, piece_bytes)

    bounds = [piece.start for piece in pieces] + [len(content)]
    assert bounds[0] == 0 and bounds == sorted(set(bounds))
    assert pieces[-1].end is None
    if piece_bytes < 64:
        assert set(range(0, len(content), 64)) <= set(bounds)
    else:
        assert all(bound % 64 == 0 for bound in bounds[:-1])
    assert all(stop - start <= piece_bytes for start, stop in pairwise(bounds))
    assert raw_rows(source, [replace(whole, block_bytes=64)], piece_bytes) == raw_rows(
        source, [whole]
    )


def test_shares_hold_every_piece_once(tmp_path: Path) -> None:
    folder = write(tmp_path, {f"{n}.csv": "id,name\n" + "1,a\n" * n**3 for n in range(9)})
    pieces = cut(files_of(folder), THINGS, 50)
    for tasks in (1, 3, 1000):
        found = shares(pieces, tasks)
        assert [piece for share in found for piece in share] == pieces
        assert len(found) <= tasks and all(found)
    assert shares([], 3) == []
    assert all(isinstance(piece.file, RawFile) for piece in pieces)
