"""Environments of their own, made once and kept in the user's cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def interpreter(name: str) -> str:
    """Of the environment that `tools/NAME_world.txt` lists."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "millstream").expanduser()
    command = [str(ROOT / "tools" / "world.sh"), name, sys.executable, str(cache)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
