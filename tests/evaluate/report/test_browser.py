"""The report in a real browser, headless: its pictures are drawn, nothing is logged as wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from jobs.evaluate.report.report import RowsRead, write_report
from tests.evaluate.report.test_report import _metrics, _report

pytestmark = pytest.mark.slow
PHONE, SCREEN = (390, 3_000), (1_200, 2_400)


def _chromium(*arguments: str) -> subprocess.CompletedProcess[str]:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    assert found, "no Chromium: run tools/install_browser.sh (Debian's package chromium)"
    quiet = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    return subprocess.run(
        [found, *quiet, "--enable-logging=stderr", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    read = RowsRead(
        days={"2013-01-01": {"raw": 900, "train": 880, "quarantined": 20}},
        reasons={"duplicate_key": 5, "above_max:age": 15},
        drift={"age": [0.03]},
    )
    place = tmp_path_factory.mktemp("report") / "report.html"
    write_report(str(place), _report(read=read, champion=_metrics(0.78)))
    return place


def test_all_pictures_are_in_the_page_and_no_console_error(page: Path) -> None:
    shown = _chromium("--dump-dom", page.as_uri())

    assert shown.returncode == 0, shown.stderr[-2000:]
    titles = re.findall(r"<figcaption>([^<]+)<", shown.stdout)
    assert {"Calibration", "ROC, area", "Precision and recall, area", "Rows a date"} <= set(titles)
    assert shown.stdout.count("<svg") == len(titles)
    assert "CONSOLE" not in shown.stderr, shown.stderr


@pytest.mark.parametrize("size", [PHONE, SCREEN], ids=["phone", "screen"])
def test_pictures_are_drawn_and_fit_the_width(
    page: Path, size: tuple[int, int], tmp_path: Path
) -> None:
    width, height = size
    target = tmp_path / "page.png"

    _chromium(f"--screenshot={target}", f"--window-size={width},{height}", page.as_uri())

    image = cv2.imread(str(target))
    assert image is not None
    assert image.shape[1] == width
    # The blue of the model's curves is somewhere, and the right edge is the page's own colour.
    blue = (np.abs(image.astype(int) - (206, 99, 11)).max(axis=2) < 25).sum()
    assert blue > 500
    edge = image[:, -3:].reshape(-1, 3)
    assert (edge == edge[0]).all()


def test_the_page_prints(page: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.pdf"

    _chromium(f"--print-to-pdf={target}", page.as_uri())

    content = target.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(content) > 10_000
