"""The order in which trials come to rungs: generation by generation, whatever runs beside.

All trials of a generation come to a rung before any goes on from it, and no generation leaves a
rung before the one ahead of it has. So who goes on follows from values alone. Trials of a later
generation, which need no results, fill the slots that the last ones of an earlier one leave free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from jobs.tune.study import Asked

Ran = TypeVar("Ran")


class TrialWork(Protocol[Ran]):
    """What becomes of trials. Only `run` is called in other threads than the caller's own."""

    def runs_to(self, one: Asked, rung: int | None) -> bool:
        """Whether a trial still has to come to a rung, or to its end when None."""

    def run(self, rung: int | None, one: Asked) -> Ran:
        """Runs it there."""

    def take(self, one: Asked, rung: int | None, ran: Ran) -> None:
        """Puts on record what came of it."""

    def stop(self, asked: Sequence[Asked], rung: int) -> None:
        """Stops those trials of a generation that do not go on from a rung, where all are."""

    def may_begin(self) -> bool:
        """Whether something more may be begun; what was begun is gone through."""

    def ended(self) -> None:
        """A generation has ended."""


@dataclass
class _Generation(Generic[Ran]):
    """Trials on their way to a rung, or to their end.

    Attributes:
        leg: the number of the rungs that they have left.
        left: those that are to be run.
        awaited: those whose results are to be put on record, in their order.
        ran: results that are not on record, by the trial's number.
        is_cut: whether the rest is left to another run.
    """

    asked: Sequence[Asked]
    leg: int = 0
    left: deque[Asked] = field(default_factory=deque)
    awaited: deque[Asked] = field(default_factory=deque)
    ran: dict[int, Ran] = field(default_factory=dict)
    is_cut: bool = False


class Generations(Generic[Ran]):
    """Runs generations of trials to their end, or until nothing more may be begun.

    Args:
        rungs: numbers of rows, ascending.
        asked: the generations; each is asked for when it is begun.
        ahead: whether one may be begun while another is under way.
        parallel: trials at a time.
    """

    def __init__(
        self,
        work: TrialWork[Ran],
        rungs: Sequence[int],
        asked: Iterator[Sequence[Asked]],
        *,
        ahead: bool,
        parallel: int,
    ) -> None:
        self._work, self._legs = work, (*rungs, None)
        self._asked, self._ahead, self._parallel = asked, ahead, parallel
        self._open: list[_Generation[Ran]] = []

    def run(self) -> None:
        running: dict[Future[Ran], tuple[_Generation[Ran], Asked]] = {}
        with ThreadPoolExecutor(self._parallel, "trial") as threads:

            def fill(choose: Callable[[], tuple[_Generation[Ran], Asked] | None]) -> None:
                while len(running) < self._parallel and (chosen := choose()) is not None:
                    generation, one = chosen
                    leg = self._legs[generation.leg]
                    running[threads.submit(self._work.run, leg, one)] = chosen

            while True:
                fill(self._next)
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    generation, one = running.pop(done)
                    generation.ran[one.number] = done.result()
                # No slot waits until the store has the results.
                fill(self._left)
                self._settle()

    def _left(self) -> tuple[_Generation[Ran], Asked] | None:
        """A trial of the earliest generation that has one to run."""
        for generation in self._open:
            if generation.left:
                return generation, generation.left.popleft()
        return None

    def _next(self) -> tuple[_Generation[Ran], Asked] | None:
        """The trial to run next; another generation is begun where none has one."""
        while (found := self._left()) is None:
            if (self._open and not self._ahead) or not self._work.may_begin():
                return None
            asked = next(self._asked, None)
            if asked is None:
                return None
            self._open.append(_Generation(asked))
            self._begin(self._open[-1])
            self._settle()
        return found

    def _begin(self, generation: _Generation[Ran]) -> None:
        rung = self._legs[generation.leg]
        wanted = [one for one in generation.asked if self._work.runs_to(one, rung)]
        generation.is_cut = bool(wanted) and not self._work.may_begin()
        if not generation.is_cut:
            generation.left, generation.awaited = deque(wanted), deque(wanted)

    def _settle(self) -> None:
        """Puts results on record in the order of the trials, and lets generations go on."""
        ahead = len(self._legs)
        for generation in list(self._open):
            self._take(generation)
            while not generation.awaited and not generation.is_cut and generation.leg < ahead:
                self._leave(generation)
            ahead = generation.leg

    def _take(self, generation: _Generation[Ran]) -> None:
        awaited, ran = generation.awaited, generation.ran
        while awaited and awaited[0].number in ran:
            one = awaited.popleft()
            self._work.take(one, self._legs[generation.leg], ran.pop(one.number))

    def _leave(self, generation: _Generation[Ran]) -> None:
        """Where all of a generation are, some stop, and the others begin what comes next."""
        rung = self._legs[generation.leg]
        generation.leg += 1
        if rung is not None:
            self._work.stop(generation.asked, rung)
            self._begin(generation)
        else:
            self._open.remove(generation)
            self._work.ended()
