"""The soak: night after night on small data, each with a trouble, and nothing lost at the end.

    MILLSTREAM_SOAK_NIGHTS=60 MILLSTREAM_SOAK_SEED=7 pytest -s tests/faults/test_soak.py

The lake is on a small disk, the raw files are on S3 on loopback. A seed draws the same troubles
again: what happens in which night, in which step, to whom. A night that a trouble ends is called
again, undisturbed, as a scheduler would.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.lake.ledger import read_ledger
from jobs.lake.lock import live_runs
from jobs.main import main
from jobs.nightly.record import load
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from jobs.stores.files import write_whole
from tests.builders.jumping import JUMP
from tests.builders.processes import Process, millstream
from tests.builders.s3 import S3
from tests.builders.troubles import (
    Memory,
    Trouble,
    dead_holder,
    hit,
    troubled_store,
)
from tests.builders.visits import HEADER, Raw, rows_of
from tests.faults.test_etl_kills import CLUSTER, SPARK

NIGHTS = int(os.environ.get("MILLSTREAM_SOAK_NIGHTS", "60"))
SEED = os.environ.get("MILLSTREAM_SOAK_SEED") or str(random.SystemRandom().getrandbits(32))
ROWS, REFUSED = 200, 2
# What a driver leaves behind, killed or not, ends by itself within this time.
_GONE_S = 120.0
_ATTEMPTS = 6
# A night takes a minute; one that takes so long hangs, however busy the machine is.
_NIGHT_S = 900.0
_DISK_MB = 64
# The driver may hold as much more in the last nights as in the first.
_FLAT = 1.15
_OURS = {0: "done", 4: "the gate refused"}


@dataclass
class Night:
    """What happened in a night."""

    ds: str
    trouble: Trouble
    clustered: bool
    came: str = ""
    codes: list[int] = field(default_factory=list)
    left: int = 0
    seconds: float = 0.0
    calm_driver_mb: float = 0.0
    calm_jvm_mb: float = 0.0
    said: str = ""

    def line(self) -> str:
        codes = ", ".join(map(str, self.codes))
        return (
            f"{self.ds}  {'cluster' if self.clustered else 'local  '}  {self.trouble!s:45} "
            f"{self.came:13} codes {codes:12} {self.seconds:4.0f} s, driver "
            f"{self.calm_driver_mb:4.0f} MB, JVM {self.calm_jvm_mb:4.0f} MB, left {self.left}"
        )


@dataclass
class Soak:
    """A data set and its nights so far.

    Attributes:
        disk: that the lake is on; None where it cannot be filled.
    """

    raw: Raw
    lake_url: str
    disk: Path | None
    s3: S3
    nights: list[Night] = field(default_factory=list)

    @property
    def command(self) -> tuple[str, ...]:
        return ("--config", str(self.raw.config), "--set", f"lake={self.lake_url}")

    @property
    def settings(self) -> Settings:
        return load_settings(self.raw.config, [f"lake={self.lake_url}"])

    @property
    def lake(self) -> Lake:
        return Lake(self.lake_url, "visits")

    def night(self, number: int, seed: str) -> None:
        """A night with its trouble, again until it is done; what happened is printed."""
        ds = str(dt.date(2024, 1, 1) + dt.timedelta(number))
        land(self.raw, self.s3, ds)
        clustered = random.Random(f"{seed} cluster {number}").random() < 0.3
        trouble = Trouble.drawn(f"{seed} {number}", clustered)
        night = Night(ds, trouble, clustered)
        self.nights.append(night)
        started = time.monotonic()
        try:
            self._with_trouble(night)
            while night.codes[-1] not in _OURS and len(night.codes) < _ATTEMPTS:
                self._again(night)
        finally:
            night.seconds = time.monotonic() - started
            print(night.line(), flush=True)
        assert night.codes[-1] in _OURS, f"{night.line()}\n{night.said}"
        killed = trouble.name == "kill" and trouble.kind == "driver"
        assert killed or -9 not in night.codes, f"it hung: {night.line()}\n{night.said}"

    def _nightly(self, night: Night) -> tuple[str, ...]:
        conf = "cluster.conf" if night.clustered else "local.conf"
        spark = ("--set", f"spark.properties_file={conf}")
        return ("nightly", *self.command, *spark, "--date", night.ds)

    def _with_trouble(self, night: Night) -> None:
        trouble = night.trouble
        if trouble.name == "dead holder":
            dead_holder(self.lake)
        with ExitStack() as happening:
            happening.enter_context(troubled_store(self.s3, trouble))
            more: Mapping[str, str] = {}
            module = "jobs.main"
            if trouble.name == "clock jump":
                module = "tests.builders.jumping"
                more = {JUMP: f"{5 + 5 * trouble.delay_s},{trouble.jump_s}"}
            process = happening.enter_context(
                millstream(
                    *self._nightly(night), module=module, environment=more, deadline_s=_NIGHT_S
                )
            )
            memory = happening.enter_context(Memory().of(process))
            if trouble.name in ("kill", "freeze", "full disk"):
                try:
                    process.until(f"{night.ds}: step {trouble.step}")
                    night.came = hit(process, trouble, self.disk)
                except AssertionError:
                    night.came = "ended before"
            self._ended(night, process)
        if trouble.name in ("none", "dead holder"):
            night.calm_driver_mb, night.calm_jvm_mb = memory.driver, memory.jvm

    def _again(self, night: Night) -> None:
        memory = Memory()
        with millstream(*self._nightly(night), deadline_s=_NIGHT_S) as process, memory.of(process):
            self._ended(night, process)
        night.calm_driver_mb, night.calm_jvm_mb = memory.driver, memory.jvm
        if night.codes[-1] == 5:
            # Somebody's lease has not run out: a scheduler tries again.
            time.sleep(5)

    def _ended(self, night: Night, process: Process) -> None:
        """Waits for the command and for all that it started; what stays is counted and killed."""
        code = process.code()
        night.codes.append(code)
        night.said += f"--- exit code {code}\n" + "".join(process.said)[-6_000:]
        deadline = time.monotonic() + _GONE_S
        while process.left() and time.monotonic() < deadline:
            time.sleep(0.1)
        night.left += len(process.left())
        process.kill_left()


def land(raw: Raw, s3: S3, ds: str) -> None:
    """The date's raw file: sound rows, and some that are refused."""
    refused = [f"{ds},{number},a,1.0,130,1" for number in range(1, 1 + REFUSED)]
    lines = [HEADER, *rows_of(ds, ROWS), *refused]
    write_whole(s3.url(raw.folder.name, f"{ds}.csv"), ("\n".join(lines) + "\n").encode())


def raw_of(folder: Path, s3: S3) -> Raw:
    raw = Raw(folder)
    raw.settings = {
        "train": {
            "workers": 2,
            "epochs": 2,
            "window_days": 7,
            "stall_s": 20,
            "start_timeout_s": 60,
            "checkpoint_rows": 200,
        },
        "stream": {"timeout_s": 15},
    }
    raw.write()
    raw.configure({"visits": s3.url(folder.name, "{ds}.csv")})
    (folder / "local.conf").write_text("spark.master local[2,4]\n" + SPARK)
    (folder / "cluster.conf").write_text(CLUSTER)
    return raw


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of its own, which can be full without any other's being so; None where this
    user may mount none."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "none", str(folder)]
    if subprocess.call(mount, stderr=subprocess.DEVNULL):
        yield None
        return
    try:
        yield folder
    finally:
        # Lazily: this process keeps the registry's database open.
        subprocess.check_call(["umount", "-l", str(folder)])


@pytest.fixture
def soak(tmp_path: Path, s3: S3) -> Iterator[Soak]:
    raw = raw_of(tmp_path / tmp_path.name, s3)
    with small_disk(tmp_path / "disk") as disk:
        yield Soak(raw, str(tmp_path / "disk" / "lake"), disk, s3)


@pytest.mark.slow
def test_nights_full_of_trouble_lose_nothing(soak: Soak) -> None:
    print(f"\nMILLSTREAM_SOAK_SEED={SEED} MILLSTREAM_SOAK_NIGHTS={NIGHTS}")
    for number in range(NIGHTS):
        soak.night(number, SEED)
    assert_conserved(soak)
    assert_predicted_once(soak)
    assert_one_champion(soak)
    assert_nothing_left(soak)
    assert_flat(soak)
    assert_as_in_one_pass(soak)


def assert_conserved(soak: Soak) -> None:
    shards = Examples.open(soak.lake.table("examples").url).shards()
    examples = Counter[str]()
    for shard in shards:
        examples[shard.ds] += shard.rows
    refused = Counter(
        (row["stage"], row["ds"]) for row in soak.lake.table("quarantine").read_arrow().to_pylist()
    )
    for night in soak.nights:
        assert examples[night.ds] == ROWS, night.line()
        for stage in ("etl", "score"):
            assert refused[stage, night.ds] == REFUSED, night.line()


def assert_predicted_once(soak: Soak) -> None:
    found = soak.lake.table("predictions").read_arrow().select(["ds", "visit"]).to_pylist()
    keys = Counter((row["ds"], int(row["visit"])) for row in found)
    assert keys == Counter(
        (night.ds, int(line.split(",")[1]))
        for night in soak.nights
        for line in rows_of(night.ds, ROWS)
    )


def assert_one_champion(soak: Soak) -> None:
    """The alias is where the last promotion was done, and each night's scores are of a champion."""
    champion = Registry(soak.settings, soak.lake).champion()
    moves = read_ledger(soak.lake, stage="promote")
    done = [move["versions"]["to"] for move in moves if move["status"] == "done"]
    assert champion is not None and champion.version == done[-1]
    assert {load(soak.lake, night.ds).champion for night in soak.nights} <= set(done)


def assert_nothing_left(soak: Soak) -> None:
    assert live_runs(soak.lake) == set()
    assert [night.line() for night in soak.nights if night.left] == []
    assert all(load(soak.lake, night.ds).is_finished for night in soak.nights)
    assert main(["vacuum", *soak.command, "--quiet", "--older-than", "0"]) == 0
    assert main(["nightly", *soak.command, "--quiet", "--date", soak.nights[-1].ds]) in _OURS


def assert_flat(soak: Soak) -> None:
    """Of the drivers of undisturbed attempts, the last third beside the first."""
    for name in ("calm_driver_mb", "calm_jvm_mb"):
        held = [mb for night in soak.nights if (mb := getattr(night, name))]
        third = len(held) // 3
        if third >= 2:
            first, last = statistics.median(held[:third]), statistics.median(held[-third:])
            assert last <= _FLAT * first, f"{name}: {first:.0f} MB at first, {last:.0f} at last"


def assert_as_in_one_pass(soak: Soak) -> None:
    """The examples are those that one undisturbed pass over all dates makes."""
    calm = Soak(soak.raw, str(soak.raw.folder / "calm"), None, soak.s3)
    dates = f"{soak.nights[0].ds}..{soak.nights[-1].ds}"
    etl = ("etl", *calm.command, "--quiet", "--dates", dates)
    with millstream(*etl, deadline_s=_NIGHT_S) as process:
        assert process.code() == 0, process.said
    found = [
        [(s.ds, s.split, s.number, s.digest) for s in Examples.open(url).shards()]
        for url in (soak.lake.table("examples").url, calm.lake.table("examples").url)
    ]
    assert found[0] == found[1]
