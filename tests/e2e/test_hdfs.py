"""Nights of flights whose raw files and lake are on HDFS: as on a local disk, digest by digest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.settings.load import load_settings
from tests.builders.contents import contents
from tests.builders.flights import configure, dates, land
from tests.builders.hdfs import Hdfs

ROOT = Path(__file__).parents[2]
SPARK_SUBMIT = Path(sys.executable).with_name("spark-submit")


def submit(config: Path, *arguments: str) -> str:
    """What a night said; it must end with 0."""
    command = [str(SPARK_SUBMIT), "--properties-file", str(config.parent / "spark.conf")]
    ended = subprocess.run(
        [*command, str(ROOT / "jobs" / "nightly" / "job.py"), "--config", str(config), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_three_nights_on_hdfs_are_those_on_a_local_disk(hdfs: Hdfs, tmp_path: Path) -> None:
    """Both with the same HADOOP_CONF_DIR, whose default store is HDFS."""
    days = dates(3)
    land(tmp_path, days, 300)
    place = hdfs.upload(tmp_path / "raw", f"{tmp_path.name}/raw").removesuffix("/raw")
    near, far = configure(tmp_path, "near"), configure(tmp_path, "far", place)

    for config in (near, far):
        said = submit(config, "--dates", f"{days[0]}..{days[-1]}")
        assert "predictions" in said or "score" in said, said

    settings = load_settings(far)
    assert settings.lake_url.startswith("hdfs://")
    assert contents(settings, days) == contents(load_settings(near), days)
