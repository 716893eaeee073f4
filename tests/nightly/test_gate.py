"""The gate's step: a verdict holds for the champion that it knew, and a promotion is told of."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.base.errors import GateRefused
from jobs.lake.lake import Lake
from jobs.nightly.record import Record, StepRecord
from jobs.nightly.steps import Steps
from jobs.observe.event import Event
from jobs.observe.run import observed
from jobs.registry.registry import Registry
from tests.registry.test_registry import _register, _settings

DS = "2024-01-01"


class Kept:
    """Keeps promotions that it is told of."""

    name = "kept"

    def __init__(self) -> None:
        self.promotions: list[dict[str, str]] = []

    def tell(self, event: Event) -> None:
        if event.kind == "promotion":
            self.promotions.append(dict(event.versions))


class Gate:
    """A lake with three models, and a night whose evaluation passed."""

    def __init__(self, folder: Path) -> None:
        self.lake, self.settings = Lake(str(folder / "lake"), "flights"), _settings(folder)
        self.registry = Registry(self.settings, self.lake)
        self.versions = [
            _register(self.registry, folder, content) for content in ("aaaa", "bbbb", "cccc")
        ]
        self.kept = Kept()

    def __call__(self, version: str, standing: str, *runs: str) -> None:
        """The step, as the last of these attempts."""
        values = {"versions": {"model": version}, "passed": True, "standing": standing}
        night = Record(DS).with_step("evaluate", StepRecord("done", values=values))
        night = night.with_step("gate", StepRecord("started", runs))
        with observed(self.settings, self.lake, "gate", runs[-1], [DS]) as run:
            run._observers._observers = [self.kept]
            Steps(self.settings, lambda: pytest.fail("Spark"), self.lake).gate(run, [night])

    @property
    def champion(self) -> str:
        found = self.registry.champion()
        return found.version if found else ""


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def test_a_model_takes_the_place_of_the_champion_that_it_was_judged_beside(gate: Gate) -> None:
    first, second, _ = gate.versions
    gate(first, "", "gate-1")
    gate(second, first, "gate-2")
    assert gate.champion == second
    assert gate.kept.promotions == [
        {"champion": first},
        {"champion": second, "before": first},
    ]


@pytest.mark.parametrize("standing", [0, None])
def test_a_verdict_on_another_champion_promotes_nothing(gate: Gate, standing: int | None) -> None:
    first, second, third = gate.versions
    gate.registry.promote(first, "night-1")
    gate.registry.promote(third, "night-2")
    known = "" if standing is None else gate.versions[standing]

    with pytest.raises(GateRefused, match=rf"champion was .*; it is version {third} now") as found:
        gate(second, known, "gate-3")

    assert "--from evaluate" in str(found.value)
    assert gate.champion == third
    assert gate.kept.promotions == []


def test_a_promotion_that_was_cut_before_it_was_told_of_is_told_of(gate: Gate) -> None:
    first, second, _ = gate.versions
    gate.registry.promote(first, "night-1")
    gate.registry.promote(second, "gate-2")

    gate(second, first, "gate-2", "gate-3")
    assert gate.kept.promotions == [{"champion": second, "before": first}]

    # A night that is done again promotes nothing.
    gate(second, first, "gate-4")
    assert len(gate.kept.promotions) == 1
