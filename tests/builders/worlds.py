"""Environments of their own, made once and kept in the user's cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "millstream").expanduser()


def interpreter(name: str) -> str:
    """Of the environment that `tools/NAME_world.txt` lists."""
    command = [str(ROOT / "tools" / "world.sh"), name, sys.executable, str(CACHE)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
