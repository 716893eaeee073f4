"""What happens to a night of the soak: kills, freezes, a full disk, a bad store, a wrong clock."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from jobs.base.spark import DAEMON
from jobs.lake.lake import Lake
from jobs.lake.lock import LEASE_S
from jobs.nightly.names import STEPS
from jobs.stores.files import read_json, write_json
from tests.builders.processes import Process, command_of
from tests.builders.s3 import S3

# Kind of a process -> what its command has.
KINDS = {
    "driver": "-m jobs.main",
    "jvm": "pyspark-shell",
    "executor": "CoarseGrainedExecutorBackend",
    "python worker": DAEMON,
    "rank": "gloo_exec_fn",
}
STEP_OF = {"rank": ("train",), "python worker": ("etl", "evaluate", "score")}
NAMES = (
    *("none", "kill", "kill", "kill", "freeze", "freeze", "full disk", "full disk"),
    *("slow store", "refusing store", "dead holder", "clock jump"),
)
# Longest wait for a process of the kind that is to be hit.
_APPEARS_S = 15.0


@dataclass(frozen=True)
class Trouble:
    """What happens, when, and to whom; all drawn before the night begins.

    Attributes:
        name: one of NAMES.
        kind: of the process that is hit.
        step: of the night in which it happens.
        delay_s: after the step began.
        lasts_s: of a freeze and a full disk.
        jump_s: of the driver's clock.
    """

    name: str
    kind: str
    step: str
    delay_s: float
    lasts_s: float
    jump_s: float

    @classmethod
    def drawn(cls, seed: str, clustered: bool) -> Trouble:
        chance = random.Random(seed)
        kinds = [kind for kind in KINDS if clustered or kind != "executor"]
        kind = chance.choice(kinds)
        return cls(
            chance.choice(NAMES),
            kind,
            chance.choice(STEP_OF.get(kind, STEPS[:5])),
            chance.uniform(0.0, 3.0),
            chance.choice([2.0, 8.0, 30.0]),
            chance.choice([-3_600.0, 3_600.0]),
        )

    def __str__(self) -> str:
        at = f"in {self.step} + {self.delay_s:.1f} s"
        match self.name:
            case "kill":
                return f"{self.kind} killed {at}"
            case "freeze":
                return f"{self.kind} frozen for {self.lasts_s:.0f} s {at}"
            case "full disk":
                return f"full disk for {self.lasts_s:.0f} s {at}"
            case "clock jump":
                return f"clock jumps by {self.jump_s:+.0f} s"
            case _:
                return self.name


def hit(process: Process, trouble: Trouble, disk: Path | None) -> str:
    """Does a trouble of a moment to a running night; returns what came of it, in a word."""
    time.sleep(trouble.delay_s)
    if trouble.name == "full disk":
        if disk is None:
            return "no disk"
        with _full(disk):
            time.sleep(trouble.lasts_s)
        return "done"
    victim = _victim(process, trouble.kind)
    if victim is None:
        return "nobody there"
    with contextlib.suppress(psutil.NoSuchProcess):
        if trouble.name == "kill":
            victim.kill()
        else:
            victim.suspend()
            time.sleep(trouble.lasts_s)
            victim.resume()
    return "done"


def _victim(process: Process, kind: str) -> psutil.Process | None:
    deadline = time.monotonic() + _APPEARS_S
    while time.monotonic() < deadline and process.popen.poll() is None:
        found = [one for one in process.left() if _is_of_kind(one, kind)]
        if found:
            # The youngest: of Python workers the one that works, not the daemon that forks them.
            return max(found, key=lambda one: one.create_time())
        time.sleep(0.05)
    return None


def _is_of_kind(process: psutil.Process, kind: str) -> bool:
    command = command_of(process)
    shell = command.startswith(("/bin/sh", "sh "))
    return KINDS[kind] in command and not shell


@contextmanager
def _full(disk: Path) -> Iterator[None]:
    """Fills a file system to its last block."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        yield
    finally:
        filler.unlink()


@contextmanager
def troubled_store(s3: S3, trouble: Trouble) -> Iterator[None]:
    """The store is slow, or refuses, through all of a night."""
    match trouble.name:
        case "slow store":
            with s3.slow("", delay_s=1.0, method="", every=10):
                yield
        case "refusing store":
            with s3.failing("", 503, method="", every=10):
                yield
        case _:
            yield


def dead_holder(lake: Lake) -> None:
    """The night's lock is held by a run of another host, which died; its lease ends in 5 s by our
    clock, as that host's may have been wrong."""
    url = lake.folder("locks", "nightly.json")
    try:
        token = int(read_json(url)["token"])
    except FileNotFoundError:
        token = 0
    holder = {
        "token": token + 1,
        "run": "nightly-elsewhere",
        "host": f"not-{socket.gethostname()}",
        "pid": 1,
        "pid_started_at": 0.0,
        "renewed_at": time.time() - LEASE_S + 5.0,
        "released": False,
    }
    write_json(url, holder)


@dataclass
class Memory:
    """The most that the driver's two processes held of a command, in MB."""

    driver: float = 0.0
    jvm: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def of(self, process: Process) -> Iterator[Memory]:
        watch = threading.Thread(target=self._watch, args=(process,), daemon=True)
        watch.start()
        try:
            yield self
        finally:
            self._ended.set()
            watch.join()

    def _watch(self, process: Process) -> None:
        jvm: psutil.Process | None = None
        while not self._ended.wait(0.5):
            with contextlib.suppress(psutil.Error):
                driver = psutil.Process(process.popen.pid)
                self.driver = max(self.driver, _held_mb(driver))
                jvm = jvm or next((c for c in driver.children() if _is_of_kind(c, "jvm")), None)
                if jvm is not None:
                    self.jvm = max(self.jvm, _held_mb(jvm))


def _held_mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20
