"""Serve: replicas of a server answer with the champion, until SIGTERM.

    millstream serve --config conf/flights.yaml

The supervisor forks the replicas, which listen on the same ports, and starts again those that die
or are still for `serve.stall_s`. It holds no threads of gRPC's or torch's, which no fork survives.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from jobs.base.errors import ConfigError, MillstreamError
from jobs.base.termination import ending
from jobs.lake.lake import Lake
from jobs.serve.access import address, tls_of, tokens_of
from jobs.serve.left import account, note_death, take_back
from jobs.serve.live import refuse_bad_parents
from jobs.settings.settings import Settings

log = logging.getLogger("millstream.serve")

_MOMENT = struct.Struct("d")
_LOOK_S = 0.2
# A replica that dies at once is not started again at once.
_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
_WELL_S = 30.0
_START_S = 300.0


def run(settings: Settings) -> int:
    """Serves until it is told to end; returns how many replicas were started again.

    Raises:
        ConfigError: a port is taken, a token or a file of TLS is missing or none, or a setting does
            not fit the declaration.
    """
    tokens_of(settings)
    tls_of(settings)
    refuse_bad_parents(settings)
    with tempfile.TemporaryDirectory(prefix="millstream-serve-") as name:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = name
        with _reserved_ports(settings) as reserved:
            return _Supervisor(reserved, Path(name)).run()


@contextmanager
def _reserved_ports(settings: Settings) -> Iterator[Settings]:
    """The settings with real numbers for ports of 0. Bound, not listening, so that the numbers stay
    this server's while its replicas come and go.

    Raises:
        ConfigError: a port is taken.
    """
    serve = settings.serve
    held = []
    ports = {}
    for name in ("port", "grpc_port"):
        asked = getattr(serve, name)
        if asked is not None:
            held.append(_reserved(serve.host, asked))
            ports[name] = held[-1].getsockname()[1]
    try:
        yield settings.model_copy(update={"serve": serve.model_copy(update=ports)})
    finally:
        for one in held:
            one.close()


def _reserved(host: str, port: int) -> socket.socket:
    """A socket that keeps the port for this server's replicas.

    Raises:
        ConfigError: another server has it, which would get half of the requests, or nobody may.
    """
    try:
        with socket.socket(_family(host), socket.SOCK_STREAM) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((host, port))
        # Without SO_REUSEADDR, by which another server could not see it before a replica listens.
        return _bound(host, port, socket.SO_REUSEPORT)
    except OSError as error:
        raise ConfigError(
            f"{address(host, port)} cannot be listened on: {error.strerror}",
            remedy="end what listens there, or set serve.port and serve.grpc_port",
        ) from error


def _bound(host: str, port: int, *options: int) -> socket.socket:
    """
    Args:
        options: of the socket.
    """
    # Of a socket that is not said to be TCP's asyncio leaves Nagle's algorithm on: an answer then
    # waits 40 ms for the client's acknowledgement.
    found = socket.socket(_family(host), socket.SOCK_STREAM, socket.IPPROTO_TCP)
    for option in options:
        found.setsockopt(socket.SOL_SOCKET, option, 1)
    found.bind((host, port))
    return found


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@dataclass
class _Process:
    """A replica's process.

    Attributes:
        beat: memory where it notes each second when it was last known not to hang.
    """

    number: int
    pid: int = 0
    started: float = 0.0
    failures: int = 0
    not_before: float = 0.0
    beat: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, _MOMENT.size))


class _Supervisor:
    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._replicas = [_Process(number) for number in range(settings.serve.replicas)]
        self._ending = False
        self._restarts = 0

    def run(self) -> int:
        before = {name: signal.signal(name, self._end) for name in ending()}
        try:
            while not self._ending:
                self._look()
                time.sleep(_LOOK_S)
            self._stop()
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
            for one in self._replicas:
                _kill(one.pid, signal.SIGKILL)
        return self._restarts

    def _end(self, *_: object) -> None:
        self._ending = True

    def _look(self) -> None:
        now = time.monotonic()
        for one in self._replicas:
            if one.pid and _has_ended(one.pid):
                self._note_death(one, now)
            elif one.pid and self._is_still(one, now):
                log.warning("replica %d is still; it is replaced", one.number)
                _kill(one.pid, signal.SIGKILL)
            elif not one.pid and now >= one.not_before:
                self._start(one, now)

    def _is_still(self, one: _Process, now: float) -> bool:
        (last,) = _MOMENT.unpack(one.beat[:])
        stall_s = self._settings.serve.stall_s
        # Before its first beat it loads the libraries and the model, which may take long.
        return bool(now - last > (stall_s if last > one.started else max(stall_s, _START_S)))

    def _note_death(self, one: _Process, now: float) -> None:
        one.failures = 0 if now - one.started > _WELL_S else one.failures + 1
        one.not_before = now + _PAUSES_S[min(one.failures, len(_PAUSES_S) - 1)]
        log.warning("replica %d (pid %d) ended; it is started again", one.number, one.pid)
        # Its gauges go; its counters stay.
        for file in self._folder.glob(f"gauge_live*_{one.pid}.db"):
            file.unlink(missing_ok=True)
        note_death(self._folder, one.pid)
        one.pid = 0
        self._restarts += 1

    def _start(self, one: _Process, now: float) -> None:
        one.started = now
        one.beat[:] = _MOMENT.pack(now)
        sys.stdout.flush()
        sys.stderr.flush()
        one.pid = os.fork()
        if one.pid == 0:
            code = 1
            try:
                code = _replica(self._settings, one, self._folder)
            finally:
                # Whatever happened: what follows here is the supervisor's.
                os._exit(code)

    def _stop(self) -> None:
        """Lets all drain; kills those that do not end."""
        for one in self._replicas:
            # A frozen one could not hear the other signal.
            _kill(one.pid, signal.SIGCONT)
            _kill(one.pid, signal.SIGTERM)
        until = time.monotonic() + self._settings.serve.drain_s + 10
        while time.monotonic() < until and any(one.pid for one in self._replicas):
            for one in self._replicas:
                if one.pid and _has_ended(one.pid):
                    note_death(self._folder, one.pid)
                    one.pid = 0
            time.sleep(_LOOK_S / 4)
        for one in self._replicas:
            if one.pid:
                log.warning("replica %d did not end; it is killed", one.number)
                _kill(one.pid, signal.SIGKILL)
                os.waitpid(one.pid, 0)
                note_death(self._folder, one.pid)
                one.pid = 0
        # No replica is left, and nothing is forked after this, so tables may be written here.
        take_back(self._folder)
        account(Lake(self._settings.lake_url, self._settings.dataset().name), self._folder)


def _has_ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] != 0


def _kill(pid: int, name: int) -> None:
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, name)


def _replica(settings: Settings, process: _Process, folder: Path) -> int:
    """The life of a replica's process; returns its exit code."""
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_DFL)
    # A terminal tells all processes that it closes; the supervisor has them drain.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _end_with_parent()
    try:
        # Only here: their threads would not survive the fork.
        import uvloop

        from jobs.serve.replica import Replica

        def beat(alive_at: float) -> None:
            process.beat[:] = _MOMENT.pack(alive_at)

        # Shared with the other replicas, and free for a next server while connections time out.
        options = (socket.SO_REUSEPORT, socket.SO_REUSEADDR)
        listening = _bound(settings.serve.host, settings.serve.port, *options)
        listening.listen(1_024)

        async def serve() -> None:
            await Replica(settings, process.number, folder, beat).run(listening)

        uvloop.run(serve())
    except MillstreamError as error:
        log.error("replica %d cannot serve: %s", process.number, error)
        return 1
    except Exception:
        log.exception("replica %d ended by an error", process.number)
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _end_with_parent() -> None:
    """Lets the kernel end this process with the supervisor (Linux)."""
    import ctypes

    parent = os.getppid()
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(0)
