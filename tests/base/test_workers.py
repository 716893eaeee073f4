"""A step in Python workers, and what no task pays anew."""

from __future__ import annotations

import gc
import os
import sys
import zipfile
import zipimport
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.base import workers
from jobs.base.workers import in_workers


def _settled(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Of each row, how many objects its worker no longer looks through."""
    for batch in batches:
        counts = pa.array([gc.get_freeze_count()] * batch.num_rows, pa.int64())
        yield pa.RecordBatch.from_arrays([batch.column(0), counts], ["id", "settled"])


def test_later_tasks_of_a_worker_leave_its_imports_alone(spark: SparkSession) -> None:
    # One after the other, so that one worker has them all.
    found = in_workers(spark.range(0, 6, 1, 6), _settled, "id long, settled long").coalesce(1)
    later = in_workers(found.select("id"), _settled, "id long, settled long").collect()
    assert sorted(row["id"] for row in later) == list(range(6))
    again = in_workers(spark.range(0, 1, 1, 1), _settled, "id long, settled long").collect()
    assert again[0]["settled"] > 10_000


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
