"""Compacting, erasing and vacuuming a lake on HDFS leaves what it leaves on a local disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pyspark.sql import SparkSession

from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.lake.ledger import read_ledger
from jobs.main import main
from jobs.stores.hdfs import HdfsFiles
from tests.builders.hdfs import Hdfs
from tests.builders.lakes import run_etl
from tests.builders.visits import Raw, rows_of

DAYS = ["2024-01-01", "2024-01-02"]
GONE = "visit=240101003"


def operated(raw: Raw, spark: SparkSession, lake: str) -> dict[str, Any]:
    """What two dates hold after all operations; the first date is made twice, in small shards."""
    place = f"lake={lake}"
    for days in (DAYS, DAYS[:1]):
        run_etl(raw, spark, days, place, "etl.shard_rows=20")
        raw.add(rows_of(DAYS[0], 60)[50:]).write()
    for command in (
        ["compact", "--set", "etl.shard_rows=1000"],
        ["erase", "--key", GONE],
        ["vacuum", "--older-than", "0"],
    ):
        assert main([*command, "--config", str(raw.config), "--set", place, "--quiet"]) == 0
    found = Lake(lake, "visits")
    examples = Examples.open(found.table("examples").url)
    fs, root = fsspec.core.url_to_fs(found.url)
    files = [path.removeprefix(root) for path in fs.find(root)]
    return {
        "shards": [
            (s.ds, s.split, s.number, s.row_group_rows, s.digest) for s in examples.shards()
        ],
        "states": examples.info["states"],
        "ledger": [
            (row["stage"], row["ds"], row["counts"]) for row in read_ledger(found) if row["ds"]
        ],
        "data": len([path for path in files if "/examples/run=" in path and ".crc" not in path]),
        "states kept": sorted(path for path in files if path.startswith("/states/")),
    }


@pytest.fixture
def same_user(hdfs: Hdfs, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As the tasks of the tests' one JVM, which was started without a user's name."""
    monkeypatch.delenv("HADOOP_USER_NAME")
    HdfsFiles.clear_instance_cache()
    yield
    HdfsFiles.clear_instance_cache()


@pytest.mark.slow
@pytest.mark.usefixtures("same_user")
def test_operations_on_hdfs_are_those_on_a_disk(
    hdfs: Hdfs, tmp_path: Path, spark: SparkSession
) -> None:
    lines = [line for ds in DAYS for line in rows_of(ds, 50)]
    registry = {"mlflow": {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}}
    raws = [Raw(tmp_path / name, [*lines], registry).write() for name in ("near", "far")]

    near = operated(raws[0], spark, str(raws[0].lake))
    far = operated(raws[1], spark, hdfs.url(tmp_path.name, "lake"))

    assert far == near
    assert near["data"] == len(near["shards"])
