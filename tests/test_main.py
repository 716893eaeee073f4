"""The command line itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.builders.lakes import run_etl
from tests.builders.visits import Raw, rows_of


def _unread(stream: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code and outputs of a command whose standard output, or error, nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writing}
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.main", *arguments],
        **streams,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(writing)
    return ended.returncode, ended.stdout or "", ended.stderr or ""


def test_a_reader_that_has_gone_is_no_failure(tmp_path: Path, spark: SparkSession) -> None:
    raw = Raw(tmp_path).add(rows_of("2024-01-01", 30)).write()
    run_etl(raw, spark, ["2024-01-01"])
    assert _unread("stdout", "files", "--config", str(raw.config)) == (0, "", "")


@pytest.mark.parametrize(
    ("stream", "arguments", "code"),
    [
        ("stdout", ("--help",), 0),
        ("stderr", ("etl",), 2),
        ("stderr", ("files", "--config", "none.yaml"), 2),
    ],
)
def test_nor_of_help_and_errors(stream: str, arguments: tuple[str, ...], code: int) -> None:
    assert _unread(stream, *arguments) == (code, "", "")
