"""Commands as processes of their own, killed when they say that they are at some point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
# Spark's start alone takes many seconds on a busy machine.
DEADLINE_S = 300.0


class Process:
    """A running `millstream COMMAND`; what it says on standard error is kept in `said`."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.said: list[str] = []

    def until(self, text: str) -> None:
        """Returns when a line with the text was said; an error when the process ends before."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.said.append(line)
            if text in line:
                return
        raise AssertionError(f"ended without {text!r}:\n{''.join(self.said)}")

    def kill(self) -> None:
        """SIGKILL to the driver and its JVM at once."""
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def code(self) -> int:
        """The exit code, when it has ended by itself."""
        _, rest = self.popen.communicate()
        self.said.append(rest)
        return self.popen.returncode

    def executors(self) -> list[psutil.Process]:
        children = psutil.Process(self.popen.pid).children(recursive=True)
        return [child for child in children if "CoarseGrainedExecutorBackend" in _command(child)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@contextmanager
def millstream(*arguments: str) -> Iterator[Process]:
    """Starts a command; nothing of it is left at the end."""
    popen = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SPARK_LOCAL_IP": "127.0.0.1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    process = Process(popen)
    deadline = threading.Timer(DEADLINE_S, process.kill)
    deadline.start()
    try:
        yield process
    finally:
        deadline.cancel()
        if popen.poll() is None:
            process.kill()
