"""docs/quickstart.md, run line by line by a shell, prints what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
# Every block in its own place; a marker between them tells whose output is whose.
BLOCKS = re.findall(r"```(sh|text)\n(.*?)```", PAGE, re.DOTALL)
MARK = "==== block"
_TIMEOUT_S = 900
# What differs from machine to machine: the last digits of what was trained.
_NUMBER = re.compile(r"0\.\d+")


def script() -> str:
    """The page's shell blocks, each after a marker."""
    parts = ["set -euo pipefail"]
    for number, (kind, text) in enumerate(BLOCKS):
        if kind == "sh":
            parts += [f"echo '{MARK} {number}'", text]
    return "\n".join(parts)


def expected() -> dict[int, list[str]]:
    """The lines that the page shows after each shell block, by the block's number."""
    return {
        number - 1: text.splitlines()
        for number, (kind, text) in enumerate(BLOCKS)
        if kind == "text"
    }


def test_each_output_of_the_page_has_its_command() -> None:
    assert expected()
    assert all(BLOCKS[number][0] == "sh" for number in expected())
    assert PAGE.count("```") == 2 * len(re.findall(r"```(?:sh|text|yaml)\n", PAGE))


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
        ["bash", "-c", script()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    outputs = re.split(rf"{MARK} (\d+)\n", ended.stdout)[1:]
    said = {int(number): text for number, text in zip(outputs[::2], outputs[1::2], strict=True)}
    for number, lines in expected().items():
        for line in lines:
            pattern = r"0\.\d+".join(re.escape(part) for part in _NUMBER.split(line))
            assert re.search(pattern, said[number]), f"not printed: {line}\n{said[number]}"
