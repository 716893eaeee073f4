"""A step in Python workers, and what no task pays anew."""

from __future__ import annotations

import gc
import os
import sys
import types
import zipfile
import zipimport
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession

from jobs.base import workers
from jobs.base.workers import in_workers


def _doubled(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield pa.RecordBatch.from_arrays([pc.multiply(batch.column(0), 2)], ["id"])


def test_a_step_has_all_rows_of_its_task(spark: SparkSession) -> None:
    found = in_workers(spark.range(0, 6, 1, 3), _doubled, "id long").collect()
    assert sorted(row["id"] for row in found) == [0, 2, 4, 6, 8, 10]


def _looked_through(held: object) -> bool:
    """Whether collections look through it."""
    return any(one is held for one in gc.get_objects())


def test_after_a_first_task_its_imports_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here in this process, as in a worker's; what is imported later is left alone after that."""
    monkeypatch.setattr(workers, "_modules", 0)
    monkeypatch.setattr(zipimport.zipimporter, "invalidate_caches", workers._read)
    before: list[object] = []
    try:
        list(workers._run(iter, iter([])))
        later: list[object] = []
        list(workers._run(iter, iter([])))
        assert (_looked_through(before), _looked_through(later)) == (False, True)
        monkeypatch.setitem(sys.modules, "imported_later", types.ModuleType("imported_later"))
        list(workers._run(iter, iter([])))
        assert not _looked_through(later)
    finally:
        gc.unfreeze()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return _archive(tmp_path / "modules.zip", "before")


def _archive(path: Path, *modules: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in modules:
            file.writestr(f"{name}.py", "")
    return path


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python does so of itself")
def test_an_archive_is_read_again_only_when_it_changed(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = workers._read

    def counted(importer: zipimport.zipimporter) -> None:
        reads.append(importer.archive)
        read(importer)

    monkeypatch.setattr(workers, "_read", counted)
    importer = zipimport.zipimporter(str(archive))
    for _ in range(3):
        workers._if_changed(importer)
    assert len(reads) == 1 and importer.find_spec("later") is None
    changed = archive.stat().st_mtime_ns + 1_000_000_000
    _archive(archive, "before", "later")
    os.utime(archive, ns=(changed, changed))
    workers._if_changed(importer)
    assert len(reads) == 2 and importer.find_spec("later") is not None
    archive.unlink()
    workers._if_changed(importer)
    assert importer.find_spec("later") is None
