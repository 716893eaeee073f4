"""Points of a space are in it, each once, with the entries that their conditions let in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
