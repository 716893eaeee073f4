"""A study of 24 trials on flights is the same at any parallelism, and killed at ten random moments:
its driver with all that it started, an executor, or the process of a trial."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.storages import JournalStorage

from jobs.base.spark import DAEMON
from jobs.lake.lake import Lake
from jobs.lake.ledger import read_ledger
from jobs.tune.journal import LakeJournal
from tests.builders.flights import SPARK, configure, dates, land
from tests.builders.processes import Process, command_of, millstream

TRIALS, KILLS, SEED = 24, 10, 11
SPACE = (
    "tune.space={train.learning_rate: {low: 1.0e-3, high: 0.3, log: true}, "
    "train.hidden: [[16], [16, 8]], train.dropout: {low: 0.0, high: 0.4}}"
)
CHANGES = (
    SPACE,
    f"tune.trials={TRIALS}",
    "tune.generation=6",
    "train.restarts=2",
    # With more, trials would end between two looks at the journal.
    "train.epochs=3",
)
DEADLINE_S = 900.0
LOCAL = SPARK.replace("local[2]", "local[3]")
CLUSTER = SPARK.replace("local[2]", "local-cluster[2,1,1024]") + "spark.executor.memory 1g\n"
VICTIMS = ("driver", "executor", "trial")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flights")
    land(folder, dates(2), 600)
    (folder / "spark.conf").write_text(LOCAL)
    config = configure(folder, "lake")
    span = "..".join(dates(2))
    with millstream("etl", "--config", str(config), "--dates", span) as process:
        assert process.code() == 0, "".join(process.said)
    return config


@contextlib.contextmanager
def searching(config: Path, study: str, parallel: int) -> Iterator[Process]:
    changes = [part for one in CHANGES for part in ("--set", one)]
    options = ("--config", str(config), "--study", study, "--parallel", str(parallel))
    with millstream("tune", *options, *changes, deadline_s=DEADLINE_S) as process:
        yield process


def lake_of(config: Path) -> Lake:
    return Lake(str(config.parent / "lake"), "flights")


def journal(config: Path, study: str) -> str:
    return lake_of(config).folder("studies", study) + "/journal.log"


def outcome(config: Path, study: str) -> tuple[list[Any], dict[str, int]]:
    """Parameters, values at rungs and at the end, weights and state of each trial; and the rows in
    the ledger by the trial's number."""
    storage = JournalStorage(LakeJournal(journal(config, study)))
    (found,) = storage.get_all_studies()
    trials = [
        (
            *(one.number, one.state.name, one.value, one.intermediate_values),
            *(one.user_attrs["millstream"].get(name) for name in ("params", "weights", "rows")),
        )
        for one in storage.get_all_trials(found._study_id)
    ]
    rows = read_ledger(lake_of(config), stage="tune")
    of_study = [row for row in rows if f"-{study}-" in row["run"]]
    counts = {row["run"].rsplit("-", 1)[-1]: row["counts"]["rows"] for row in of_study}
    assert len(counts) == len(of_study) == TRIALS
    return trials, counts


def lines(config: Path, study: str) -> int:
    path = Path(journal(config, study))
    return len(path.read_text().splitlines()) if path.exists() else 0


def until_longer(process: Process, config: Path, wanted: int) -> bool:
    """Waits until the journal has so many lines; False when the search ended before."""
    while lines(config, "killed") < wanted:
        with contextlib.suppress(psutil.TimeoutExpired):
            psutil.Process(process.popen.pid).wait(0.02)
        if process.popen.poll() is not None:
            return False
    return True


def workers(process: Process) -> list[psutil.Process]:
    """The processes that train: Spark's Python workers, which its daemon forks."""
    found = []
    for child in process.left():
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = child.parent()
            if parent and all(DAEMON in command_of(one) for one in (child, parent)):
                found.append(child)
    return found


def kill(process: Process, victim: str, draw: random.Random) -> bool:
    """SIGKILL to a victim; False when the search ended before there was one."""
    while process.popen.poll() is None:
        if victim == "driver":
            process.kill()
            return True
        found = process.executors() if victim == "executor" else workers(process)
        if found:
            with contextlib.suppress(psutil.NoSuchProcess):
                draw.choice(found).kill()
                return True
    return False


@pytest.mark.slow
def test_a_study_is_the_same_at_any_parallelism_and_after_kills(config: Path) -> None:
    for parallel in (1, 2, 3):
        with searching(config, f"p{parallel}", parallel) as process:
            assert process.code() == 0, "".join(process.said)
    whole = outcome(config, "p1")
    assert len({one[1] for one in whole[0]}) == 2  # Some were stopped, some went to their end.
    assert outcome(config, "p2") == whole
    assert outcome(config, "p3") == whole

    (config.parent / "spark.conf").write_text(CLUSTER)
    draw = random.Random(SEED)
    moments = sorted(draw.sample(range(1, lines(config, "p1") - 5), KILLS))
    left = [(moment, VICTIMS[n % len(VICTIMS)]) for n, moment in enumerate(moments)]
    code: int | None = None
    while code != 0:
        with searching(config, "killed", 2) as process:
            victim = ""
            while victim != "driver" and left and until_longer(process, config, left[0][0]):
                victim = left.pop(0)[1]
                assert kill(process, victim, draw), f"no {victim} was there"
            code = process.code() if victim != "driver" else None
            assert code in (0, None), "".join(process.said)
    assert not left
    assert outcome(config, "killed") == whole
    assert not list(Path(lake_of(config).folder("checkpoints")).glob("tune-*"))
