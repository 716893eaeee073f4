"""Servers in processes of their own, which end with the test process, however that ends."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

# Reads nothing; when its standard input ends, with whoever held it, the daemon is killed.
_UNTIL_CLOSED = '"$@" < /dev/null & daemon=$!; echo $daemon; cat > /dev/null; kill -9 $daemon'


class Daemon:
    """A process that ends when this one does."""

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self._command, self.log, self._environment = command, log, dict(environment)
        self._start()

    def _start(self) -> None:
        with self.log.open("ab") as log:
            self._guard = subprocess.Popen(
                ["sh", "-c", _UNTIL_CLOSED, "sh", *self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
            )
        assert self._guard.stdout is not None
        self.pid = int(self._guard.stdout.readline())

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        assert self._guard.stdin is not None and self._guard.stdout is not None
        self._guard.stdin.close()
        self._guard.stdout.read()
        self._guard.wait()

    def restart(self) -> None:
        self.kill()
        self._start()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
