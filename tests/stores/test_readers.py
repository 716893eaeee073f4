"""Raw files and others' folders in each far store, read as their local copies are."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from jobs.base.errors import ConfigError
from jobs.lake.lake import Lake
from jobs.lake.lock import stage_lock
from jobs.rows.base.names import ROW_FILE
from jobs.rows.read.files import find_files
from jobs.rows.read.pieces import cut, read_rows
from jobs.train.order.fingerprint import check_fingerprint
from jobs.train.read.folder import Folder
from schemas.dataset import Column, Source
from tests.builders.folders import ROLES, check_plain, rows_of, stream_of, write_plain
from tests.builders.google import Google
from tests.builders.hdfs import BLOCK_BYTES, Hdfs

THINGS = Source("things", columns=(Column("id", "bigint"), Column("name", "string")))


class Far(Protocol):
    def upload(self, folder: Path | str, name: str) -> str:
        """Copies a folder up, its name replaced; returns its URL."""


@pytest.fixture(params=["s3", "google", pytest.param("hdfs", marks=pytest.mark.slow)])
def far(request: pytest.FixtureRequest) -> Far:
    server: Far = request.getfixturevalue(request.param)
    return server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's cache, where footers are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def raw_rows(root: str, piece_bytes: int) -> list[dict[str, Any]]:
    files = find_files(f"{root}/{{ds}}/*", ["2024-01-01", "2024-01-02"])
    rows = [
        row
        for table in read_rows(cut(files, THINGS, piece_bytes), THINGS)
        for row in table.to_pylist()
    ]
    return [{**row, ROW_FILE: row[ROW_FILE].removeprefix(root)} for row in rows]


def test_raw_files_have_the_rows_of_their_local_copies(far: Far, tmp_path: Path) -> None:
    for day in (1, 2):
        folder = tmp_path / "raw" / f"2024-01-0{day}"
        folder.mkdir(parents=True)
        lines = "id,name\n" + "".join(f"{n},name {n} é\n" for n in range(2_000))
        (folder / "a #1;b.csv").write_text(lines, encoding="utf-8")
        (folder / "c.csv.gz").write_bytes(gzip.compress(lines.encode()))
        (folder / "_SUCCESS").touch()
    there = far.upload(tmp_path / "raw", f"{tmp_path.name}/raw")

    found = raw_rows(there, 5_000)

    assert len(found) == 8_000
    assert found == raw_rows(str(tmp_path / "raw"), 5_000)


def test_a_foreign_folder_streams_in_the_order_of_its_local_copy(far: Far, tmp_path: Path) -> None:
    plain = write_plain(tmp_path / "plain")
    folder = Folder.open(far.upload(plain, f"{tmp_path.name}/plain"), **ROLES)
    here, there = stream_of(Folder.open(str(plain), **ROLES)), stream_of(folder)

    check_plain(rows_of(folder), np.arange(100))
    check_fingerprint(here.fingerprint, there.fingerprint)
    for epoch in range(2):
        ids = [[batch.row_id.tolist() for batch in one.epoch(epoch)] for one in (here, there)]
        assert ids[0] == ids[1]


def test_a_lake_on_googles_store_is_refused_by_name(google: Google) -> None:
    lake = Lake(google.url("lake"), "things")
    with (
        pytest.raises(
            ConfigError, match=r"gs://bucket/lake/things is in a store in which delta-rs cannot"
        ) as error,
        stage_lock(lake, "etl", "run"),
    ):
        pass
    assert "on s3:// or on hdfs://" in str(error.value)


@pytest.mark.slow
def test_pieces_of_a_file_on_hdfs_are_its_blocks(hdfs: Hdfs, tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "2024-01-01"
    folder.mkdir(parents=True)
    content = "id,name\n" + "".join(f"{n},{'x' * 50}\n" for n in range(60_000))
    (folder / "a.csv").write_text(content)
    root = hdfs.upload(tmp_path / "raw", f"{tmp_path.name}/blocks")

    files = find_files(f"{root}/{{ds}}", ["2024-01-01"])
    pieces = cut(files, THINGS, BLOCK_BYTES)

    assert [piece.start for piece in pieces] == list(range(0, len(content), BLOCK_BYTES))
    ids = [row["id"] for table in read_rows(pieces, THINGS) for row in table.to_pylist()]
    assert ids == [str(n) for n in range(60_000)]
