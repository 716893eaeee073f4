"""Expectations on a date as a whole, beside the rules on its rows.

They are measured on the date's valid rows, before the commit. One that is broken refuses the date,
or warns; the settings can change that by the expectation's name (`etl.severities`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["refuse", "warn"]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The least and the greatest value that is as expected, and what a value outside does."""

    min: float = 0.0
    max: float = math.inf
    severity: Severity = "refuse"

    def __post_init__(self) -> None:
        if not self.min <= self.max:
            raise ValueError(
                f"{type(self).__name__}: min is {self.min}, max is {self.max}; min may not be above"
            )


@dataclass(frozen=True)
class Rows(Bounds):
    """The number of valid rows. Measured as `rows`."""

    @property
    def name(self) -> str:
        return "rows"


@dataclass(frozen=True)
class Nulls(Bounds):
    """The fraction of valid rows whose field is null. Measured as `nulls:FIELD`."""

    field: str

    @property
    def name(self) -> str:
        return f"nulls:{self.field}"


@dataclass(frozen=True)
class Share(Bounds):
    """The fraction of valid rows for which a condition is true. Measured as `share:LABEL`.

    The condition is DuckDB's SQL over the stored fields, as they are before they get ids:
    `Share("jfk", "airport = 'JFK'", min=0.2, max=0.5)`.
    """

    label: str
    where: str

    @property
    def name(self) -> str:
        return f"share:{self.label}"


@dataclass(frozen=True)
class Drift(Bounds):
    """How far the field's train rows are from those of all dates before it, as the population
    stability index; above 0.25 is by custom a shift. Measured as `psi:FIELD`, from the second date.

    Numeric fields are compared by tenths of the rows before, categorical ones by the values most
    frequent before, both with null apart.
    """

    field: str

    @property
    def name(self) -> str:
        return f"psi:{self.field}"


Expectation: TypeAlias = Rows | Nulls | Share | Drift
