"""How a file that spark-submit is given runs the command of its job."""

from __future__ import annotations

import importlib
import sys


def run_command(name: str) -> None:
    """Ends the process as `millstream NAME` with this process' arguments does.

    The commands know the jobs, so a job finds them by name, and only where it is the main program.
    """
    sys.exit(importlib.import_module("jobs.main").main([name, *sys.argv[1:]]))
