"""The section `tune` of the settings: which settings of `train` are searched, and how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from jobs.settings.section import Section
from jobs.settings.train import RUN_SETTINGS, TrainSettings

_PREFIX = "train."
# By the last two trials are compared: they could not be, if these differed.
_NO_RESULT = RUN_SETTINGS | {"best_by", "window_days"}
_MOST_GRID = 10_000
# Optuna keeps numbers as doubles.
_MOST, _MOST_WHOLE = 1e300, 2**53
# Of the way from low to high; not at a number that is round by chance.
_BETWEEN = 0.381966


class Range(Section):
    """Numbers from `low` to `high`; whole ones where both are written as such."""

    low: int | float = Field(description="the least value")
    high: int | float = Field(description="the largest value")
    log: bool = Field(False, description="whether values are drawn evenly by their logarithm")
    step: int | float | None = Field(None, gt=0, description="between values; any when empty")
    when: dict[str, list[Any]] = Field({}, description="values of entries before it that need it")

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def values(self) -> list[Any] | None:
        """All values; None where they are not a list."""
        step = self.step or (1 if self.is_whole and not self.log else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [self.low + n * step for n in range(min(count, _MOST_GRID + 1))]

    def ends(self) -> list[Any]:
        """Values that stand for all when they are tried: one between the ends is among them."""
        listed = self.values()
        between = listed[1] if listed else self.low + _BETWEEN * (self.high - self.low)
        return [self.low, round(between) if self.is_whole else between, self.high]

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        said = f"low is {self.low} and high {self.high}; "
        if not self.low < self.high:
            raise ValueError(f"{said}low must be below high")
        most = _MOST_WHOLE if self.is_whole else _MOST
        if max(-self.low, self.high) > most:
            raise ValueError(f"{said}numbers from {-most} to {most} are expected: give closer ones")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and no step")
        return self

    @model_validator(mode="after")
    def _has_steps(self) -> Range:
        if self.step is None:
            return self
        said = f"low is {self.low}, high {self.high} and step {self.step}; "
        if self.is_whole and not isinstance(self.step, int):
            raise ValueError(
                f"{said}between whole numbers a whole step is expected: write it without a point, "
                "or low and high with one"
            )
        if self.step > self.high - self.low:
            raise ValueError(f"{said}a step that fits between them is expected: give a smaller one")
        return self


class Choices(Section):
    """One of some values."""

    choices: list[Any] = Field(description="the values")
    when: dict[str, list[Any]] = Field({}, description="values of entries before it that need it")

    def values(self) -> list[Any]:
        """All values."""
        return self.choices

    def ends(self) -> list[Any]:
        """Values that stand for all when they are tried."""
        return self.choices

    @field_validator("choices")
    @classmethod
    def _are_several(cls, choices: list[Any]) -> list[Any]:
        if len(choices) < 2:
            raise ValueError("one value is no choice: set it in train, or give more")
        if any(one in choices[:place] for place, one in enumerate(choices)):
            raise ValueError("a value stands twice")
        return choices


def _kind(entry: Any) -> str:
    named = isinstance(entry, Mapping) and "choices" in entry
    return "choices" if named or isinstance(entry, Choices) else "range"


# By one of them alone an error tells what is wrong.
Entry = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind)
]


class TuneSettings(Section):
    """The search for settings of `train`: the space, and who asks for the next trial."""

    space: dict[str, Entry] = Field(
        {}, description="what is searched, by setting: a list of values, or low, high, log, step"
    )
    sampler: Literal["tpe", "gp", "bohamiann", "cmaes", "random", "quasi_random", "grid"] = Field(
        "tpe", description="what asks for the next trials"
    )
    trials: int = Field(20, ge=1, description="of a study; a grid has as many as it has points")
    generation: int | None = Field(
        None,
        ge=1,
        description="trials asked for at once, and compared at rungs; what they are follows from "
        "it; empty: 4, but reduction * reduction * reduction with halving where the sampler needs "
        "no results",
    )
    parallel: int = Field(1, ge=1, description="trials that run at a time; changes no result")
    ranks_per_trial: int = Field(1, ge=1, description="Horovod ranks of a trial, each in a task")
    stopping: Literal["halving", "hyperband", "median", "none", "async_halving"] = Field(
        "halving", description="who goes on at a rung; async_halving depends on timing"
    )
    reduction: int = Field(
        3, ge=2, description="one of so many trials goes on, to a rung of so many times the rows"
    )
    first_rung_rows: int | None = Field(
        None,
        ge=1,
        description="of all epochs, whole ones after the first; empty: of all by reduction twice",
    )
    retrain: bool = Field(False, description="train the winner again, on the validation rows, too")
    seed: int = Field(7, ge=0, description="another seed, other trials")

    @field_validator("space", mode="before")
    @classmethod
    def _lists_are_choices(cls, space: Any) -> Any:
        if not isinstance(space, Mapping):
            return space
        return {
            name: {"choices": list(entry)} if isinstance(entry, list | tuple) else entry
            for name, entry in space.items()
        }

    @model_validator(mode="after")
    def _entries_are_settings_of_training(self) -> TuneSettings:
        before: dict[str, Range | Choices] = {}
        for name, entry in self.space.items():
            key = name.removeprefix(_PREFIX)
            if key == name or key not in TrainSettings.model_fields:
                raise ValueError(f"space has {name!r}; only settings of train can be searched")
            if key in _NO_RESULT:
                raise ValueError(f"space has {name!r}, by which trials cannot be told apart")
            for other, values in entry.when.items():
                known = before[other].values() if other in before else None
                if known is None or not values or any(value not in known for value in values):
                    raise ValueError(
                        f"{name} is there when {other} is one of {values}; that must be an entry "
                        "before it, and some of its values"
                    )
            before[name] = entry
        return self

    @model_validator(mode="after")
    def _grid_can_be_gone_through(self) -> TuneSettings:
        if self.sampler == "grid" and self.space:
            sizes = {name: entry.values() for name, entry in self.space.items()}
            endless = [name for name, values in sizes.items() if values is None]
            if endless:
                raise ValueError(f"a grid needs a step for {endless[0]}, or a list of values")
            points = math.prod(len(values or ()) for values in sizes.values())
            if points > _MOST_GRID:
                raise ValueError(
                    f"the grid has {points:,} points or more, at most {_MOST_GRID:,} are taken; "
                    "use another sampler, or fewer values"
                )
        return self

    @model_validator(mode="after")
    def _cmaes_has_numbers(self) -> TuneSettings:
        if self.sampler != "cmaes" or not self.space:
            return self
        for name, entry in self.space.items():
            if isinstance(entry, Choices) or entry.when:
                kind = "a condition" if entry.when else "a list of values"
                raise ValueError(
                    f"sampler cmaes takes ranges without conditions, and {name} has {kind}; "
                    "use tpe or bohamiann, or leave it out"
                )
        return self

    @property
    def learns(self) -> bool:
        """Whether a trial follows from results of those before it."""
        return self.sampler not in ("random", "quasi_random", "grid")

    @property
    def generation_trials(self) -> int:
        """Trials of a generation.

        Where trials do not follow from results, as many as halving makes one of by its three legs.
        Without rungs a night that has spent its time would have to go through as many trainings.
        """
        is_bracket = self.stopping == "halving" and not self.learns
        return self.generation or (self.reduction**3 if is_bracket else 4)

    def tried(self) -> list[tuple[str, Any]]:
        """A setting of train and a value of it, for all that the space has at its ends."""
        return [
            (name.removeprefix(_PREFIX), value)
            for name, entry in self.space.items()
            for value in entry.ends()
        ]
