"""What the README says about one's own data works as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.main import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def block(language: str, first_line: str = "") -> str:
    found = re.findall(rf"```{language}\n({re.escape(first_line)}.*?)```", README, re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_own_data_in_three_files(
    tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_data.py").write_text(block("python", "# my_data.py"))
    (tmp_path / "clicks.yaml").write_text(block("yaml", "# clicks.yaml"))
    raw = tmp_path / "raw" / "2024-01-01"
    raw.mkdir(parents=True)
    (raw / "clicks.csv").write_text(block("csv"))
    config = str(tmp_path / "clicks.yaml")
    assert main(["etl", "--config", config, "--date", "2024-01-01", "--quiet"]) == 0
    assert "etl: 3 rows = " in capsys.readouterr().out
