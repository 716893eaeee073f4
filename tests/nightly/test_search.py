"""A night with a real search: its winner passes the gate. One that was cut, by a kill or by
the night's budget, goes on as the same."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.trial import TrialState
from pyspark.sql import SparkSession

from jobs.main import main
from jobs.nightly.record import load
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from jobs.tune.progress import StudyProgress, studies
from jobs.tune.study import stored_study
from tests.builders.lakes import lake_of
from tests.builders.processes import Process, millstream
from tests.builders.visits import Raw

# A Monday and a Tuesday.
FIRST, SECOND = "2024-01-01", "2024-01-02"
TRIALS, GENERATION = 6, 2
SETTINGS: dict[str, dict[str, Any]] = {
    # The nights' own models hardly learn.
    "train": {"learning_rate": 1.0e-6, "epochs": 3},
    "tune": {
        "space": {"train.learning_rate": {"low": 1.0e-3, "high": 0.1, "log": True}},
        "sampler": "random",
        "trials": TRIALS,
        "generation": GENERATION,
    },
    "gate": {
        "rules": [{"metric": "auc", "min_value": 0.0, "min_gain": 0.01, "min_rows": 1}],
        "rows": "all",
    },
    "nightly": {"tune_on": ["monday", "tuesday"]},
}


def lines_of(ds: str) -> list[str]:
    """Visitors above 40 buy."""
    first = int(ds[-2:]) * 1000
    return [
        f"{ds},{first + n},{'abcd'[n % 4]},{n % 17},{18 + n % 50},{int(n % 50 > 22)}"
        for n in range(400)
    ]


def raw_in(folder: Path, *more: tuple[str, Any]) -> Raw:
    settings = {**SETTINGS, "nightly": {**SETTINGS["nightly"], **dict(more)}}
    return Raw(folder, settings=settings).add([*lines_of(FIRST), *lines_of(SECOND)]).write()


def nightly(raw: Raw, ds: str) -> int:
    return main(["nightly", "--config", str(raw.config), "--date", ds, "--quiet"])


def champion(raw: Raw) -> dict[str, str]:
    """The champion's tags."""
    found = Registry(load_settings(raw.config), lake_of(raw)).champion()
    assert found is not None
    return found.tags


def study_of(raw: Raw) -> StudyProgress:
    (found,) = studies(lake_of(raw))
    return found


def trials(raw: Raw) -> list[tuple[Any, ...]]:
    """What became of each trial, without times."""
    study = stored_study(lake_of(raw).folder("studies", study_of(raw).study))
    facts = [one.user_attrs.get("millstream", {}) for one in study.trials]
    return [
        (one.number, one.state, one.params, one.intermediate_values, fact.get("weights"))
        for one, fact in zip(study.trials, facts, strict=True)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    raw = raw_in(tmp_path_factory.mktemp("whole"))
    assert nightly(raw, FIRST) == 0
    return raw


@pytest.mark.slow
def test_a_search_ends_in_a_promotion_through_the_gate(whole: Raw) -> None:
    step = load(lake_of(whole), FIRST).steps["tune"]
    assert step.status == "done"
    assert step.message.endswith("model version 2 is the champion from now on")
    study = study_of(whole)
    assert (study.ended, study.version, study.told) == (True, "2", TRIALS)
    tags = champion(whole)
    assert (tags["study"], tags["trial"]) == (study.study, str(study.best_trial))
    # The night had scored before, with its own model.
    scored = lake_of(whole).table("predictions").read_arrow()["model_version"].to_pylist()
    assert set(scored) == {"1"}
    assert len(scored) == 400


@pytest.mark.slow
def test_the_next_night_scores_with_the_winner(whole: Raw, tmp_path: Path) -> None:
    raw = whole.copy(tmp_path / "next")
    raw.settings["nightly"] = {"tune_on": ["sunday"]}
    raw.configure({"visits": "visits.csv"})
    # Its own model is no better than the winner.
    assert nightly(raw, SECOND) == 4
    predictions = lake_of(raw).table("predictions").read_arrow().to_pandas()
    assert set(predictions[predictions["ds"] == SECOND]["model_version"]) == {"2"}


def searched(raw: Raw) -> int:
    """Lines of the only study's journal; 0 where there is none yet."""
    found = list(Path(lake_of(raw).folder("studies")).glob("*/journal.log"))
    return len(found[0].read_text().splitlines()) if found else 0


def kill_in_search(raw: Raw, process: Process, lines: int) -> None:
    """SIGKILL to all of a night whose search is in its middle."""
    while searched(raw) < lines:
        with contextlib.suppress(psutil.TimeoutExpired):
            psutil.Process(process.popen.pid).wait(0.02)
        assert process.popen.poll() is None, "".join(process.said)
    process.kill()


@pytest.mark.slow
def test_a_search_that_was_cut_goes_on_as_the_same(
    whole: Raw, tmp_path: Path, spark: SparkSession
) -> None:
    raw = raw_in(tmp_path, ("tune_rows", 1))
    command = ("nightly", "--config", str(raw.config), "--date", FIRST)
    with millstream(*command) as process:
        # The first trials were asked for, and none has ended.
        kill_in_search(raw, process, 6)
    assert load(lake_of(raw), FIRST).steps["tune"].status == "started"
    assert nightly(raw, FIRST) == 0
    begun = study_of(raw)
    assert not begun.ended
    assert 0 <= begun.told < TRIALS
    assert champion(raw).get("study") is None

    # The night's own model is refused, and the search goes on with the rows that it began with.
    raw.settings["nightly"] = {"tune_on": ["monday", "tuesday"]}
    raw.configure({"visits": "visits.csv"})
    assert nightly(raw, SECOND) == 4
    study = study_of(raw)
    assert (study.study, study.ended) == (begun.study, True)
    assert trials(raw) == trials(whole)
    assert all(state in (TrialState.COMPLETE, TrialState.PRUNED) for _, state, *_ in trials(raw))
    assert champion(raw)["study"] == study.study
    assert champion(raw)["weights_digest"] == champion(whole)["weights_digest"]
    assert (
        load(lake_of(raw), SECOND)
        .steps["tune"]
        .message.endswith(f"model version {study.version} is the champion from now on")
    )
