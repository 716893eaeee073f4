"""A study's journal: whatever write was its last, the study goes on as the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.settings.tune import TuneSettings
from jobs.tune import journal
from jobs.tune.study import Asked, OtherStudy, Study, metric_of, stored_study

METRIC = ("val_loss", False)
RATE = {"train.learning_rate": {"low": 1e-4, "high": 1.0, "log": True}}
DROPOUT = {"train.dropout": {"low": 0.0, "high": 0.5}}
STEPS = {"train.dropout": {"low": 0.0, "high": 0.5, "step": 0.1}}
MIXED = {
    "train.model": ["mlp", "dcn_v2"],
    "train.cross_layers": {"low": 1, "high": 6, "when": {"train.model": ["dcn_v2"]}},
    **RATE,
    **DROPOUT,
}
SPACES = {
    "random": MIXED,
    "quasi_random": MIXED,
    "grid": {"train.hidden": [[8], [16], [32]], **STEPS},
    "tpe": MIXED,
    "gp": MIXED,
    "cmaes": {**RATE, **DROPOUT},
    "bohamiann": {**RATE, **DROPOUT},
}
TRIALS, GENERATION = 14, 4


def settings_of(sampler: str, **more: Any) -> TuneSettings:
    tree = {"sampler": sampler, "space": SPACES[sampler], "generation": GENERATION}
    return TuneSettings.model_validate({**tree, "trials": TRIALS, **more})


def end(study: Study, one: Asked) -> None:
    """A trial fails, is stopped, or goes to its end."""
    value = float(one.number * 5 % 7)
    facts: dict[str, Any] = {"params": one.params, "rows": 1, "seconds": 1.0}
    if one.number % 5 == 4:
        study.tell(one, None, facts, "diverged")
    elif one.number % 3 == 1:
        study.report(one.number, 100, value, facts)
        study.stop([one.number])
    else:
        study.tell(one, value, facts)


def gone_through(study: Study) -> dict[int, Asked]:
    asked = {}
    for generation in study.generations():
        for one in generation:
            asked[one.number] = one
            end(study, one)
    return asked


@pytest.mark.parametrize("sampler", SPACES)
def test_a_kill_after_any_write_changes_no_trial(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, write = [], journal.write_whole

    def kept(url: str, content: bytes) -> None:
        states.append(content)
        write(url, content)

    settings = settings_of(sampler)
    monkeypatch.setattr(journal, "write_whole", kept)
    whole = gone_through(Study(str(tmp_path / "study"), settings, METRIC, {}))
    monkeypatch.undo()
    assert len(whole) == TRIALS
    assert any(len(one.params) > 1 for one in whole.values())
    # One as it is begun, one a generation, one or two a trial.
    assert len(states) > TRIALS

    for number, state in enumerate(states):
        folder = tmp_path / str(number) / "study"
        folder.mkdir(parents=True)
        (folder / "journal.log").write_bytes(state)
        study = Study(str(folder), settings, METRIC, {})
        told = {one.number for one in study.told()}
        asked = next(study.generations(), [])
        assert asked == [whole[one.number] for one in asked]
        assert {one.number for one in asked}.isdisjoint(told)
        assert asked or len(told) == TRIALS


def test_a_generation_is_asked_for_by_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, write = [], journal.write_whole
    study = Study(str(tmp_path / "study"), settings_of("random"), METRIC, {})
    monkeypatch.setattr(
        journal, "write_whole", lambda url, content: (writes.append(url), write(url, content))
    )
    asked = next(study.generations())
    assert len(writes) == 1
    study.tell(asked[0], 1.0, {})
    study.tell(asked[1], None, {}, "diverged")
    for one in asked[2:]:
        study.report(one.number, 100, 1.0, {})
    assert len(writes) == 5
    study.stop([one.number for one in asked[2:]])
    assert len(writes) == 6
    assert len(
        next(Study(str(tmp_path / "study"), settings_of("random"), METRIC, {}).generations())
    )


def test_a_study_that_is_refused_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    settings = settings_of("random")
    gone_through(Study(str(folder), settings, METRIC, {"train": "loss"}))
    before = (folder / "journal.log").read_bytes()
    with pytest.raises(OtherStudy, match="another train"):
        Study(str(folder), settings, ("val_auc", True), {"train": "auc"})
    assert (folder / "journal.log").read_bytes() == before
    assert metric_of(stored_study(str(folder))) == "val_loss"


def test_a_study_whose_trials_are_made_fewer_ends_with_those_that_were_asked_for(
    tmp_path: Path,
) -> None:
    folder = str(tmp_path / "study")
    study = Study(folder, settings_of("random"), METRIC, {})
    generations = study.generations()
    first = next(generations)
    for one in first:
        end(study, one)
    second = next(generations)
    fewer = Study(folder, settings_of("random", trials=2), METRIC, {})
    assert not fewer.has_ended
    assert gone_through(fewer) == {one.number: one for one in second}
    assert (fewer.trials, fewer.has_ended) == (2 * GENERATION, True)
    assert fewer.next() is None
    more = Study(folder, settings_of("random"), METRIC, {})
    assert (more.trials, more.has_ended) == (TRIALS, False)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_a_study_that_grew_from_whole_generations_is_one_of_so_many_trials(
    sampler: str, tmp_path: Path
) -> None:
    whole = gone_through(Study(str(tmp_path / "whole"), settings_of(sampler), METRIC, {}))
    folder = str(tmp_path / "grown")
    few = settings_of(sampler, trials=3 * GENERATION)
    begun = gone_through(Study(folder, few, METRIC, {}))
    more = gone_through(Study(folder, settings_of(sampler), METRIC, {}))
    assert begun | more == whole
