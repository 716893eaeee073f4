"""A page of docs/ whose commands a shell runs, and what it says that they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.builders.processes import ROOT

# Tells in the output whose output it is.
_MARK = "==== block"
# What differs from machine to machine: the last digits of what was trained.
_NUMBER = re.compile(r"0\.\d+")


@dataclass(frozen=True)
class Page:
    """A page; each of its blocks `text` shows lines that the block `sh` before it prints."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[tuple[str, str]]:
        return re.findall(r"```(sh|text)\n(.*?)```", self.text, re.DOTALL)

    def script(self) -> str:
        """The page's shell blocks, each after a marker."""
        parts = ["set -euo pipefail"]
        for number, (kind, text) in enumerate(self.blocks):
            if kind == "sh":
                parts += [f"echo '{_MARK} {number}'", text]
        return "\n".join(parts)

    def expected(self) -> dict[int, list[str]]:
        """The lines that the page shows after each shell block, by the block's number."""
        return {
            number - 1: text.splitlines()
            for number, (kind, text) in enumerate(self.blocks)
            if kind == "text"
        }

    def check(self) -> None:
        """Each output has its command, and no block is of another kind."""
        assert self.expected()
        assert all(self.blocks[number][0] == "sh" for number in self.expected())
        kinds = re.findall(r"```(?:sh|text|yaml)\n", self.text)
        assert self.text.count("```") == 2 * len(kinds)

    def run(self, folder: Path, timeout_s: float) -> None:
        """Runs the page in a folder, and compares what it prints."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        spark = {"PYTHONPATH": str(ROOT), "SPARK_LOCAL_IP": "127.0.0.1"}
        ended = subprocess.run(
            ["bash", "-c", self.script()],
            cwd=folder,
            env={**os.environ, "PATH": path, **spark},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        self.compare(ended.stdout)

    def compare(self, printed: str) -> None:
        """What the script printed has the page's lines, each after its command."""
        outputs = re.split(rf"{_MARK} (\d+)\n", printed)[1:]
        said = {int(number): text for number, text in zip(outputs[::2], outputs[1::2], strict=True)}
        for number, lines in self.expected().items():
            for line in lines:
                pattern = r"0\.\d+".join(re.escape(part) for part in _NUMBER.split(line))
                assert re.search(pattern, said[number]), f"not printed: {line}\n{said[number]}"
