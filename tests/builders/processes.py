"""Commands as processes of their own, killed when they say that they are at some point."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
# Spark's start alone takes many seconds on a busy machine.
DEADLINE_S = 300.0
# In the environment of all that a command starts.
_MARK = "MILLSTREAM_TEST_PROCESS"


class Process:
    """A running `millstream COMMAND`; what it says on standard error is kept in `said`."""

    def __init__(self, popen: subprocess.Popen[str], mark: str) -> None:
        self.popen, self.mark = popen, mark
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
        """SIGKILL to the driver and its JVM at once, then to ranks and workers, which lead groups
        of their own."""
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self.kill_left()

    def kill_left(self) -> None:
        """SIGKILL to all that is alive of the command, until nothing is."""
        while left := self.left():
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def left(self) -> list[psutil.Process]:
        """All processes of the command that are alive, this one and those that it started."""
        return [process for process in psutil.process_iter() if self._is_of(process)]

    def _is_of(self, process: psutil.Process) -> bool:
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and process.environ().get(_MARK) == self.mark
        except psutil.Error:
            return False

    def code(self) -> int:
        """The exit code, when it has ended by itself."""
        _, rest = self.popen.communicate()
        self.said.append(rest)
        return self.popen.returncode

    def executors(self) -> list[psutil.Process]:
        children = psutil.Process(self.popen.pid).children(recursive=True)
        return [child for child in children if "CoarseGrainedExecutorBackend" in command_of(child)]


def command_of(process: psutil.Process) -> str:
    """Its command line; empty where it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@contextmanager
def millstream(
    *arguments: str,
    module: str = "jobs.main",
    environment: Mapping[str, str] | None = None,
    deadline_s: float = DEADLINE_S,
) -> Iterator[Process]:
    """Starts a command; nothing of it is left at the end.

    Args:
        module: that runs the command.
        environment: variables besides those of this process.
        deadline_s: after which all of it is killed.
    """
    mark = uuid.uuid4().hex
    popen = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SPARK_LOCAL_IP": "127.0.0.1",
            _MARK: mark,
            **(environment or {}),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    process = Process(popen, mark)
    deadline = threading.Timer(deadline_s, process.kill)
    deadline.start()
    try:
        yield process
    finally:
        deadline.cancel()
        if popen.poll() is None:
            process.kill()
