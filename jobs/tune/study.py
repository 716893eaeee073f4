"""A study: its trials in generations, on record before they run and when they ended.

The driver alone asks and tells. A generation is asked for when all before it have been told of, or
needs no results, so its trials follow from the study's settings and from results, not from how many
run at a time, nor from when a run was cut short.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.trial import Trial, TrialState

from jobs.base.errors import ConfigError, DataRefused
from jobs.settings.tune import TuneSettings
from jobs.tune.journal import LakeJournal
from jobs.tune.samplers.samplers import fixed_params, sampler_of, trials_of
from jobs.tune.samplers.space import Params, suggested
from jobs.tune.told import FAILED, TOLD, Told, best_of, told_of

_FACTS, _RUNG = "millstream", "rung"

# Settings of `tune` that change no trial.
_FREE = {"trials", "parallel", "retrain"}

optuna.logging.set_verbosity(optuna.logging.WARNING)


class OtherStudy(ConfigError):
    """A study of this name exists, with other settings or facts."""


@dataclass(frozen=True)
class Asked:
    """A trial that is to be run.

    Attributes:
        params: values by setting, `train.x`.
    """

    number: int
    params: Params


class Study:
    """A study's journal, and what follows from it.

    Args:
        folder: URL of the study's own; the journal in it opens in Optuna's dashboard.
        metric: its name, and whether more of it is better.
        facts: what the study's results follow from, besides `settings`, as a tree for JSON. One
            that exists goes on only where they are the same; see `known_facts`.

    Raises:
        OtherStudy: it exists with another space, sampler, seed or facts.
    """

    def __init__(
        self,
        folder: str,
        settings: TuneSettings,
        metric: tuple[str, bool],
        facts: Mapping[str, Any],
    ) -> None:
        self._settings, self._more = settings, metric[1]
        name = folder.rsplit("/", 1)[-1]
        self._journal = LakeJournal(f"{folder}/journal.log")
        storage = JournalStorage(self._journal)
        wanted = {**settings_of(settings), **facts}
        if not storage.get_all_studies():
            with warnings.catch_warnings(), self._journal.at_once():
                warnings.simplefilter("ignore", ExperimentalWarning)
                begun = optuna.create_study(
                    storage=storage,
                    study_name=name,
                    direction="maximize" if self._more else "minimize",
                )
                begun.set_metric_names([metric[0]])
                begun.set_user_attr(_FACTS, wanted)
        self._study = optuna.load_study(study_name=name, storage=storage)
        found = facts_of(self._study)
        if changed := [key for key in wanted if found.get(key) != wanted[key]]:
            raise OtherStudy(
                f"the study {name!r} exists with another {', '.join(changed)}",
                "the same, where a study goes on",
                "set it back, or give the new study a name: --study NAME",
            )

    @property
    def trials(self) -> int:
        """Of the whole study: where `tune.trials` was lowered, those that were asked for."""
        return max(trials_of(self._settings), len(self._study.get_trials(deepcopy=False)))

    @property
    def has_ended(self) -> bool:
        """Whether all trials have."""
        return len(self.told()) == self.trials

    @property
    def learns(self) -> bool:
        """Whether what is asked for follows from results of earlier trials."""
        return self._settings.learns

    def generations(self) -> Iterator[list[Asked]]:
        """The trials to run, by generation, without those that have ended.

        Those of the next generation are asked for when it is taken, which is to be when all before
        have ended, where the sampler learns from them.
        """
        for first in range(0, self.trials, self._settings.generation_trials):
            numbers = range(first, min(self.end_of_generation(first), self.trials))
            with self._journal.at_once():
                asked = [self._asked(number) for number in numbers]
            if left := [one for one in asked if one is not None]:
                yield left

    def end_of_generation(self, number: int) -> int:
        """The number after the last trial of a trial's generation."""
        size = self._settings.generation_trials
        return (number // size + 1) * size

    def next(self) -> Asked | None:
        """One more trial, whether or not all before it have been told of; None at the end."""
        number = len(self._study.get_trials(deepcopy=False))
        with self._journal.at_once():
            return self._asked(number) if number < self.trials else None

    def open(self) -> list[Asked]:
        """The trials that were asked for and not told of, by number."""
        asked = [self._asked(n) for n, state in self._states().items() if not state.is_finished()]
        return [one for one in asked if one is not None]

    def is_open(self, number: int) -> bool:
        """Whether a trial that was asked for is not told of."""
        return not self._states()[number].is_finished()

    def report(self, number: int, rung: int, value: float, facts: Mapping[str, Any]) -> None:
        """Puts on record what the validation rows say of a trial at a rung."""
        storage, place = self._study._storage, self._place(number)
        with self._journal.at_once():
            storage.set_trial_user_attr(place, _RUNG, dict(facts))
            storage.set_trial_intermediate_value(place, rung, value)

    def reported(self, number: int) -> Mapping[str, Any]:
        """What was reported of a trial at its last rung."""
        trial = self._study.get_trials(deepcopy=False)[number]
        found: Mapping[str, Any] = trial.user_attrs.get(_RUNG, {})
        return found

    def costs(self, rung: int, until: int | None = None) -> dict[int, float]:
        """Of the trials below a number that came to a rung, by number; lower is better."""
        sign = -1 if self._more else 1
        return {
            one.number: sign * one.intermediate_values[rung]
            for one in self._study.get_trials(deepcopy=False)[:until]
            if rung in one.intermediate_values
        }

    def stop(self, numbers: Iterable[int]) -> None:
        """Puts on record that trials do not go on from their last rungs."""
        with self._journal.at_once():
            for number in numbers:
                facts = dict(self.reported(number))
                self._study._storage.set_trial_user_attr(self._place(number), TOLD, facts)
                self._study.tell(number, state=TrialState.PRUNED)

    def tell(
        self, asked: Asked, value: float | None, facts: Mapping[str, Any], failed: str = ""
    ) -> None:
        """Puts a trial's result on record."""
        storage, place = self._study._storage, self._place(asked.number)
        state = TrialState.COMPLETE if value is not None else TrialState.FAIL
        with self._journal.at_once():
            storage.set_trial_user_attr(place, TOLD, dict(facts))
            if value is None:
                storage.set_trial_user_attr(place, FAILED, failed)
            self._study.tell(asked.number, value, state)

    def told(self) -> list[Told]:
        """The trials that have ended, by number."""
        found = self._study.get_trials(deepcopy=False)
        return [told_of(one) for one in found if one.state.is_finished()]

    def best(self) -> Told | None:
        """See `best_of`."""
        return best_of(self.told(), self._more)

    def _place(self, number: int) -> int:
        return self._study.get_trials(deepcopy=False)[number]._trial_id

    def _states(self) -> dict[int, TrialState]:
        return {one.number: one.state for one in self._study.get_trials(deepcopy=False)}

    def _asked(self, number: int) -> Asked | None:
        """A trial of the generation, asked for once; None when it has ended."""
        study, trials = self._study, self._study.get_trials(deepcopy=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.sampler = sampler_of(self._settings, number)
            if number == len(trials):
                fixed = fixed_params(self._settings, number)
                if fixed is not None:
                    study.enqueue_trial(fixed)
                trial = study.ask()
            elif trials[number].state.is_finished():
                return None
            else:
                # A run that was cut short asked for it.
                trial = Trial(study, trials[number]._trial_id)
            return Asked(number, suggested(trial, self._settings.space))


def facts_of(study: optuna.Study) -> Mapping[str, Any]:
    """What a study was begun with."""
    found: Mapping[str, Any] = study.user_attrs[_FACTS]
    return found


def metric_of(study: optuna.Study) -> str:
    """What a study's trials are compared by."""
    names = study.metric_names
    assert names is not None
    return names[0]


def stored_study(folder: str) -> optuna.Study:
    """A study as its journal has it, to look at.

    Raises:
        DataRefused: there is none.
    """
    name = folder.rsplit("/", 1)[-1]
    try:
        return optuna.load_study(
            study_name=name, storage=JournalStorage(LakeJournal(f"{folder}/journal.log"))
        )
    except KeyError:
        raise DataRefused(
            f"there is no study {name!r} in {folder}",
            "the name of one that was begun",
            "run `millstream tune --study NAME`, or look into the folder `studies` of the lake",
        ) from None


def known_facts(folder: str) -> Mapping[str, Any]:
    """What a study that exists was begun with; empty where there is none."""
    storage = JournalStorage(LakeJournal(f"{folder}/journal.log"))
    found = storage.get_all_studies()
    return storage.get_study_user_attrs(found[0]._study_id).get(_FACTS, {}) if found else {}


def settings_of(settings: TuneSettings) -> dict[str, Any]:
    tree = settings.model_dump(mode="json", exclude=_FREE)
    # A list, as the order of its entries is part of a space.
    space = [list(item) for item in tree["space"].items()]
    return {**tree, "generation": settings.generation_trials, "space": space}
