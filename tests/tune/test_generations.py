"""Who goes on follows from values alone, however many trials run at a time and in which order they
end; and no slot is free while a trial could run that needs no results."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.tune.generations import Generations
from jobs.tune.study import Asked

RUNGS, SIZE, TRIALS = (1, 3), 3, 12
WAIT_S = 30.0
Event = tuple[str, int, int | None]


class ValuedTrials:
    """Trials of given values: at a rung the better half of all that came there go on.

    Args:
        may_begin: how often something may be begun in a run.
    """

    def __init__(self, values: Sequence[float], may_begin: int = 10**6) -> None:
        self.values, self.events, self.lock = values, list[Event](), threading.Lock()
        self.at: dict[int | None, dict[int, float]] = {1: {}, 3: {}, None: {}}
        self.stopped: set[int] = set()
        self.taken: list[Event] = []
        self.left = may_begin

    def generations(self) -> Iterator[list[Asked]]:
        for first in range(0, TRIALS, SIZE):
            numbers = range(first, first + SIZE)
            ended = self.stopped | set(self.at[None])
            if left := [Asked(number, {}) for number in numbers if number not in ended]:
                yield left

    def runs_to(self, one: Asked, rung: int | None) -> bool:
        return one.number not in self.stopped and one.number not in self.at[rung]

    def run(self, rung: int | None, one: Asked) -> float:
        with self.lock:
            self.events.append(("ran", one.number, rung))
        return self.values[one.number] + (rung or 9)

    def take(self, one: Asked, rung: int | None, ran: float) -> None:
        self.at[rung][one.number] = ran
        self.taken.append(("took", one.number, rung))

    def stop(self, asked: Sequence[Asked], rung: int) -> None:
        until = (asked[0].number // SIZE + 1) * SIZE
        peers = {number: value for number, value in self.at[rung].items() if number < until}
        best = sorted(peers, key=lambda number: -peers[number])[: (len(peers) + 1) // 2]
        here = {one.number for one in asked if one.number in peers}
        self.stopped |= here - set(best)

    def may_begin(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def ended(self) -> None:
        pass


def gone_through(work: ValuedTrials, parallel: int, ahead: bool) -> tuple[object, ...]:
    asked = work.generations()
    Generations(work, RUNGS, asked, ahead=ahead, parallel=parallel).run()
    return work.at, work.stopped


VALUES = st.lists(st.floats(0, 0.5), min_size=TRIALS, max_size=TRIALS, unique=True)


@settings(max_examples=30, deadline=None)
@given(VALUES, st.integers(1, 7), st.booleans())
def test_results_do_not_follow_from_how_many_run_at_a_time(
    values: list[float], parallel: int, ahead: bool
) -> None:
    alone = gone_through(ValuedTrials(values), 1, ahead=False)
    work = ValuedTrials(values)
    assert gone_through(work, parallel, ahead) == alone
    # Each once, and on record in their order in a generation.
    assert len(set(work.events)) == len(work.events)
    for rung in (*RUNGS, None):
        for first in range(0, TRIALS, SIZE):
            taken = [n for _, n, at in work.taken if at == rung and first <= n < first + SIZE]
            assert taken == sorted(taken)


@settings(max_examples=30, deadline=None)
@given(VALUES, st.integers(1, 4), st.booleans(), st.integers(2, 12))
def test_what_a_budget_cuts_goes_on_as_the_same(
    values: list[float], parallel: int, ahead: bool, begun: int
) -> None:
    whole = gone_through(ValuedTrials(values), 1, ahead=False)
    work = ValuedTrials(values, may_begin=begun)
    for _ in range(40):
        found = gone_through(work, parallel, ahead)
        work.left = begun
    assert found == whole
    assert len(set(work.events)) == len(work.events)


def test_a_free_slot_takes_a_trial_that_needs_no_results() -> None:
    class Held(ValuedTrials):
        """The only trial that goes on from the first generation waits for one of the second."""

        def __init__(self) -> None:
            super().__init__([0.5, *([0.0] * (TRIALS - 1))])
            self.second, self.waited = threading.Event(), False

        def stop(self, asked: Sequence[Asked], rung: int) -> None:
            self.stopped |= {one.number for one in asked} - {0}

        def run(self, rung: int | None, one: Asked) -> float:
            if one.number >= SIZE:
                self.second.set()
            if one.number == 0 and rung is None:
                self.waited = self.second.wait(WAIT_S)
            return super().run(rung, one)

    work = Held()
    gone_through(work, 2, ahead=True)
    assert work.waited


@settings(max_examples=10, deadline=None)
@given(VALUES, st.integers(1, 7))
def test_what_learns_is_asked_when_all_before_have_ended(
    values: list[float], parallel: int
) -> None:
    work = ValuedTrials(values)
    gone_through(work, parallel, ahead=False)
    generations = [number // SIZE for _, number, _ in work.events]
    assert generations == sorted(generations)
