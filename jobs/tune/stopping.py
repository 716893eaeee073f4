"""Which trials go on at a rung: pure, from the values of those that came there.

A rung is a number of rows. Successive halving (Jamieson and Talwalkar 2016) lets one of `reduction`
go on, to a rung of `reduction` times the rows; here a trial is compared with all of its study that
came to the rung, up to its generation. Hyperband (Li et al. 2018) does so in brackets that begin at
later and later rungs. The median rule is Vizier's (Golovin et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from jobs.settings.tune import TuneSettings


@dataclass(frozen=True)
class Stopping:
    """The rungs of a study, and who goes on there.

    Attributes:
        kind: `tune.stopping`.
        reduction: of the trials at a rung one of so many goes on.
        rungs: numbers of rows, ascending; none where no trial is stopped.
    """

    kind: str
    reduction: int
    rungs: tuple[int, ...]

    @classmethod
    def of(cls, settings: TuneSettings, epochs: int, epoch_rows: int) -> Stopping:
        """That of a study whose trainings are of so many epochs.

        A rung after the first epoch is at the end of an epoch: there the validation rows are asked
        anyway, and about a model that may be the trial's.
        """
        reduction, rungs = settings.reduction, []
        rows = epochs * epoch_rows
        rung = settings.first_rung_rows or math.ceil(rows / reduction**2)
        while settings.stopping != "none" and rung < rows:
            rungs.append(rung if rung < epoch_rows else rung // epoch_rows * epoch_rows)
            rung *= reduction
        return cls(settings.stopping, reduction, tuple(rungs))

    @property
    def waits(self) -> bool:
        """Whether a trial waits at a rung until those of its generation are there."""
        return self.kind != "async_halving"

    def rungs_of(self, number: int) -> tuple[int, ...]:
        """The rungs of a trial."""
        return self.rungs[self._bracket(number) :]

    def goes_on(self, number: int, costs: Mapping[int, float]) -> bool:
        """Whether a trial goes on from a rung.

        Args:
            costs: of the trials that came there, by number, its own among them; lower is better.
        """
        if self.kind == "median":
            return costs[number] <= median(costs.values())
        bracket = self._bracket(number)
        peers = sorted((cost, n) for n, cost in costs.items() if self._bracket(n) == bracket)
        going_on = max(1, len(peers) // self.reduction)
        return (costs[number], number) in peers[:going_on]

    def _bracket(self, number: int) -> int:
        """The number of rungs that a trial of Hyperband leaves out.

        Brackets have so many trials that each trains about as many rows.
        """
        if self.kind != "hyperband":
            return 0
        most = len(self.rungs)
        sizes = [
            math.ceil((most + 1) * self.reduction ** (most - left_out) / (most - left_out + 1))
            for left_out in range(most + 1)
        ]
        place = number % sum(sizes)
        for bracket, size in enumerate(sizes):
            if place < size:
                return bracket
            place -= size
        raise AssertionError("unreachable")
