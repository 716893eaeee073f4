"""docs/quickstart.md, run line by line by a shell, prints what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.pages import Page
from tests.builders.processes import ROOT

PAGE = Page(ROOT / "docs" / "quickstart.md")
_TIMEOUT_S = 900


def test_each_output_of_the_page_has_its_command() -> None:
    PAGE.check()


@pytest.mark.slow
def test_the_quick_start_runs_as_it_stands(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    ended = subprocess.run(
        ["bash", "-c", PAGE.script()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    PAGE.compare(ended.stdout)
