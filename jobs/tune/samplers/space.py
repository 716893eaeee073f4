"""The space of a study: the values that a trial has for some settings of training."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from jobs.settings.tune import Choices, Range

Params = dict[str, Any]
Entries = Mapping[str, Range | Choices]


def suggested(trial: Trial, entries: Entries) -> Params:
    """The trial's values by setting, as its sampler chooses them; those it has already stay.

    Entries whose condition does not hold are left out, so training has its own setting there.
    """
    params: Params = {}
    for name, entry in entries.items():
        if not _holds(entry, params):
            continue
        if isinstance(entry, Choices):
            texts = [_text(value) for value in entry.choices]
            chosen = trial.suggest_categorical(name, texts)
            params[name] = entry.choices[texts.index(chosen)]
        elif entry.is_whole:
            step = int(entry.step or 1)
            low, high = int(entry.low), int(entry.high)
            params[name] = trial.suggest_int(name, low, high, step=step, log=entry.log)
        else:
            low_, high_ = float(entry.low), float(entry.high)
            params[name] = trial.suggest_float(name, low_, high_, step=entry.step, log=entry.log)
    return params


def grid(entries: Entries) -> list[dict[str, Any]]:
    """All points of a grid as Optuna's parameters, the last entry changing fastest, each once."""
    found: dict[str, dict[str, Any]] = {}
    for point in itertools.product(*_listed(entries)):
        params: Params = {}
        for name, value in point:
            if _holds(entries[name], params):
                params[name] = value
        stored = as_stored(entries, params)
        found.setdefault(json.dumps(stored), stored)
    return list(found.values())


def point(entries: Entries, places: Sequence[float]) -> dict[str, Any]:
    """The point of the space at places in [0, 1), one an entry, as Optuna's parameters."""
    params: Params = {}
    for (name, entry), place in zip(entries.items(), places, strict=True):
        if _holds(entry, params):
            params[name] = _at(entry, place)
    return as_stored(entries, params)


def places(entries: Entries, stored: Mapping[str, Any]) -> list[float]:
    """Where a point is in [0, 1], one number an entry: `point` gives it back from there.

    Args:
        stored: Optuna's parameters; an entry that is not there is 1/2.
    """
    return [
        _place(entry, stored[name]) if name in stored else 0.5 for name, entry in entries.items()
    ]


def features(entries: Entries, stored: Mapping[str, Any]) -> list[float]:
    """A point, of Optuna's parameters, as numbers for a model of the space.

    A range is its place. A choice is a number for each value, of which one is 1, or none where the
    entry is not there.
    """
    found: list[float] = []
    for (name, entry), place in zip(entries.items(), places(entries, stored), strict=True):
        if isinstance(entry, Choices):
            found += [float(stored.get(name) == _text(value)) for value in entry.choices]
        else:
            found.append(place)
    return found


def distributions(entries: Entries) -> dict[str, BaseDistribution]:
    """What Optuna knows of the entries, as `suggested` tells it."""
    return {name: _distribution(entry) for name, entry in entries.items()}


def _distribution(entry: Range | Choices) -> BaseDistribution:
    if isinstance(entry, Choices):
        return CategoricalDistribution([_text(value) for value in entry.choices])
    if entry.is_whole:
        step = int(entry.step or 1)
        return IntDistribution(int(entry.low), int(entry.high), log=entry.log, step=step)
    return FloatDistribution(float(entry.low), float(entry.high), log=entry.log, step=entry.step)


def _place(entry: Range | Choices, value: Any) -> float:
    values = entry.values()
    if values is not None:
        listed = [_text(one) for one in values]
        # Steps of a fraction add up to not quite the same number as Optuna's.
        near = listed.index(value) if isinstance(entry, Choices) else _nearest(listed, value)
        return (near + 0.5) / len(listed)
    assert isinstance(entry, Range)
    half = 0.5 if entry.log and entry.is_whole else 0.0
    low, high = entry.low - half, entry.high + half
    if entry.log:
        return math.log(value / low) / math.log(high / low)
    return (float(value) - low) / (high - low)


def _nearest(values: Sequence[float], value: float) -> int:
    return min(range(len(values)), key=lambda place: abs(values[place] - value))


def _at(entry: Range | Choices, place: float) -> Any:
    values = entry.values()
    if values is not None:
        return values[int(place * len(values))]
    assert isinstance(entry, Range)
    low, high = float(entry.low), float(entry.high)
    if not entry.log:
        return low + place * (high - low)
    if not entry.is_whole:
        return float(min(high, low * (high / low) ** place))
    # Each whole number has as much room as those that are rounded to it.
    low, high = low - 0.5, high + 0.5
    return round(min(entry.high, max(entry.low, low * (high / low) ** place)))


def as_stored(entries: Entries, params: Params) -> dict[str, Any]:
    """A trial's values as Optuna's parameters."""
    return {
        name: _text(value) if isinstance(entries[name], Choices) else value
        for name, value in params.items()
    }


def _listed(entries: Entries) -> Iterator[list[tuple[str, Any]]]:
    for name, entry in entries.items():
        yield [(name, value) for value in entry.values() or ()]


def _holds(entry: Range | Choices, params: Params) -> bool:
    return all(params.get(name) in values for name, values in entry.when.items())


def _text(value: Any) -> Any:
    """Optuna's choices are single values: others are their JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value
