"""docs/serve.md, run line by line by a shell on the champion of some days of flights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.etl import job as etl
from jobs.evaluate import job as evaluate
from jobs.lake.ledger import new_run_id
from jobs.models.build import Model
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from tests.builders.models import lake_of, register_model
from tests.builders.pages import Page
from tests.builders.processes import ROOT
from tools import fetch_flights

PAGE = Page(ROOT / "docs" / "serve.md")
DAY = "2013-01-02"
_TIMEOUT_S = 300


def test_each_output_of_the_page_has_its_command() -> None:
    PAGE.check()


def _smaller(model: Model) -> None:
    """Other random weights score 0 or 1, which the page shows no pattern of."""
    for weights in model.parameters():
        weights.mul_(0.05)


@pytest.fixture
def clone(tmp_path: Path, spark: SparkSession) -> Path:
    """A folder like a clone after the demo, of fewer flights."""
    for name in ("conf", "deploy", "jobs/serve"):
        shutil.copytree(ROOT / name, tmp_path / name)
    raw = tmp_path / "data" / "raw"
    fetch_flights.main(raw)
    flights = (raw / "flights.csv").read_text().splitlines(keepends=True)
    (raw / "flights.csv").write_text("".join(flights[:1_500]))
    settings = load_settings(tmp_path / "conf" / "flights.yaml")
    etl.run(settings, spark, run_id=new_run_id("etl"), dates=["2013-01-01", DAY])
    model = register_model(settings, DAY, change=_smaller)
    evaluate.run(settings, spark, run_id=new_run_id("evaluate"), model=model)
    Registry(settings, lake_of(settings)).promote(model, new_run_id("promote"))
    return tmp_path


@pytest.mark.slow
def test_the_page_runs_as_it_stands(clone: Path) -> None:
    if shutil.which("nginx") is None:
        pytest.fail("this test needs nginx: tools/install_nginx.sh installs it")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    # What it leaves running after a failure ends with it.
    script = f"trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n{PAGE.script()}"
    ended = subprocess.run(
        ["timeout", str(_TIMEOUT_S), "bash", "-c", script],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    logs = "".join(path.read_text() for path in clone.glob("*.log"))
    assert ended.returncode == 0, ended.stdout + ended.stderr + logs
    PAGE.compare(ended.stdout)
