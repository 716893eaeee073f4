"""docs/quickstart.md, run line by line by a shell, prints what it says."""

from __future__ import annotations

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
    PAGE.run(tmp_path, _TIMEOUT_S)
