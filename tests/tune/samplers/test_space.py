"""Points of a space are in it, each once, with the entries that their conditions let in."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.settings.tune import Choices, Range, TuneSettings
from jobs.tune.samplers.space import features, grid, places, point

SPACE = TuneSettings.model_validate(
    {
        "space": {
            "train.model": ["mlp", "dcn_v2"],
            "train.cross_layers": {"low": 1, "high": 3, "when": {"train.model": ["dcn_v2"]}},
            "train.hidden": [[8], [16, 8]],
            "train.learning_rate": {"low": 1e-4, "high": 0.1, "log": True},
            "train.warmup_rows": {"low": 1, "high": 1000, "log": True},
            "train.dropout": {"low": 0.0, "high": 0.5, "step": 0.1},
        }
    }
).space
LISTED = {name: entry for name, entry in SPACE.items() if entry.values() is not None}


def in_space(params: dict[str, Any]) -> bool:
    for name, value in params.items():
        entry = SPACE[name]
        if isinstance(entry, Choices):
            texts = [v if isinstance(v, str) else json.dumps(v) for v in entry.choices]
            if value not in texts:
                return False
        elif isinstance(entry, Range) and not entry.low <= value <= entry.high:
            return False
    return True


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=len(SPACE), max_size=len(SPACE)))
def test_a_point_is_in_the_space(places: list[float]) -> None:
    params = point(SPACE, places)
    assert in_space(params)
    assert ("train.cross_layers" in params) == (params["train.model"] == "dcn_v2")
    assert isinstance(params["train.warmup_rows"], int)


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=len(SPACE), max_size=len(SPACE)))
def test_a_points_places_give_it_back(drawn: list[float]) -> None:
    params = point(SPACE, drawn)
    again = point(SPACE, [min(place, 1 - 1e-12) for place in places(SPACE, params)])
    assert again.keys() == params.keys()
    for name, value in params.items():
        assert again[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9))
    found = features(SPACE, params)
    assert len(found) == 2 + 1 + 2 + 3 * 1
    assert all(0 <= number <= 1 for number in found)


def test_a_grid_has_each_point_once() -> None:
    points = grid(LISTED)
    # Three numbers of layers for one model, none for the other; two widths; six shares.
    assert len(points) == (3 + 1) * 2 * 6
    assert len({json.dumps(one, sort_keys=True) for one in points}) == len(points)
    assert all(in_space(one) for one in points)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"low": 64, "high": 1024, "step": 0.5}, "step 0.5; between whole numbers a whole step"),
        ({"low": 1, "high": 10, "step": 2.5}, "step 2.5; between whole numbers a whole step"),
        ({"low": 1, "high": 10, "step": 20}, "a step that fits between them"),
        ({"low": 0.1, "high": 0.2, "step": 1}, "a step that fits between them"),
        ({"low": 1, "high": 2**53 + 1}, "numbers from -9007199254740992 to 9007199254740992"),
        ({"low": 1, "high": 10**400}, "numbers from"),
    ],
)
def test_a_range_that_cannot_be_drawn_from_is_named(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TuneSettings.model_validate({"space": {"train.seed": entry}})
    (error,) = refused.value.errors()
    assert said in error["msg"]
    assert error["loc"] == ("space", "train.seed", "range")


@pytest.mark.parametrize(
    "entry",
    [
        {"low": 0.0, "high": math.inf},
        {"low": -math.inf, "high": 1},
        {"low": math.nan, "high": 1.0},
    ],
)
def test_a_range_without_ends_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Input should be a finite number"):
        TuneSettings.model_validate({"space": {"train.seed": entry}})


def test_a_value_between_the_ends_is_tried_too() -> None:
    def tried(**entry: Any) -> list[Any]:
        settings = TuneSettings.model_validate({"space": {"train.seed": entry}})
        return [value for _, value in settings.tried()]

    assert tried(low=8, high=64, step=8) == [8, 16, 64]
    assert tried(low=8, high=64, log=True) == [8, 29, 64]
    assert not tried(low=8.0, high=64.0)[1].is_integer()


@pytest.mark.parametrize("sampler", ["quasi_random", "cmaes", "tpe"])
def test_a_seed_below_0_is_refused(sampler: str) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        TuneSettings.model_validate({"sampler": sampler, "seed": -1})
