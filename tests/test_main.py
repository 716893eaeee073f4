"""The command line itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pyspark.sql import SparkSession

from tests.builders.lakes import run_etl
from tests.builders.visits import Raw, rows_of


def test_a_reader_that_has_gone_is_no_failure(tmp_path: Path, spark: SparkSession) -> None:
    raw = Raw(tmp_path).add(rows_of("2024-01-01", 30)).write()
    run_etl(raw, spark, ["2024-01-01"])
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "jobs.main", "files", "--config", str(raw.config)]
    ended = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
