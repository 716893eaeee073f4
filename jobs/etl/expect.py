"""Expectations: measures of a date as a whole, compared with the declared bounds."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.base.errors import ConfigError, DateRefused
from jobs.etl.limits import refuse_unknown
from jobs.etl.names import DS
from schemas.dataset import Dataset
from schemas.expect import Drift, Expectation, Nulls, Share
from schemas.field import Numeric, NumericList

log = logging.getLogger("millstream.etl")

# Values are counted by hash, so that what comes to the driver does not grow with vocabularies.
_HASHES = 1024
_GROUPS_OF_VALUES, _GROUPS_OF_NUMBERS = 20, 10
_NULL = -(2**40)


@dataclass
class Findings:
    """What was measured of the dates of a pass, and which of it was not as expected."""

    dataset: Dataset
    severities: Mapping[str, str]
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [expectation.name for expectation in self.dataset.expectations]
        refuse_unknown("etl.severities", self.severities, names)

    def of_rows(self, rows: DataFrame, dates: Sequence[str]) -> None:
        """Judges rows, null fractions and shares.

        Args:
            rows: the valid rows of the dates.

        Raises:
            DateRefused: a date is not as expected.
            ConfigError: a condition of the declaration cannot be resolved.
        """
        if wanted := [e for e in self._wanted() if not isinstance(e, Drift)]:
            try:
                measured = _measured(rows, wanted)
            except AnalysisException as error:
                message = str(error).split("SQLSTATE")[0].splitlines()[0]
                raise ConfigError(f"expectations of {self.dataset.name!r}: {message}") from error
            nothing = {e.name: 0.0 if e.name == "rows" else math.nan for e in wanted}
            self._judge({ds: measured.get(ds, nothing) for ds in dates})

    def of_contributions(self, counts: DataFrame, dates: Sequence[str]) -> None:
        """Judges drift.

        Args:
            counts: contributions of all dates, those of `dates` included.

        Raises:
            DateRefused: a date is not as expected.
        """
        if wanted := [e for e in self._wanted() if isinstance(e, Drift)]:
            self._judge(_drifts(counts, self.dataset, [e.field for e in wanted], dates))

    def _wanted(self) -> list[Expectation]:
        return [e for e in self.dataset.expectations if self._severity(e) != "ignore"]

    def _severity(self, expectation: Expectation) -> str:
        return self.severities.get(expectation.name, expectation.severity)

    def _judge(self, measured: Mapping[str, Mapping[str, float]]) -> None:
        for ds, values in measured.items():
            self.metrics.setdefault(ds, {}).update(values)
            # Written so that NaN, of a date without rows, is outside of any bounds.
            broken = [
                e
                for e in self.dataset.expectations
                if e.name in values and not e.min <= values[e.name] <= e.max
            ]
            lines = {
                e.name: f"{e.name} is {values[e.name]:.6g}, expected {e.min:g} to {e.max:g}"
                for e in broken
            }
            if any(self._severity(e) == "refuse" for e in broken):
                raise DateRefused(
                    f"{ds} is not as expected\n" + "\n".join(f"    {x}" for x in lines.values()),
                    "the bounds of the declaration's expectations",
                    "correct the raw data, or let it pass once with --set etl.severities."
                    f"{next(e.name for e in broken if self._severity(e) == 'refuse')}=warn; "
                    "nothing was changed",
                    ds=ds,
                    **self.metrics[ds],
                )
            for line in lines.values():
                log.warning("%s: %s", ds, line)
                self.warnings.setdefault(ds, []).append(line)


def _measured(rows: DataFrame, expectations: Sequence[Expectation]) -> dict[str, dict[str, float]]:
    counts = [F.count(F.lit(1)).alias("rows")]
    for expectation in expectations:
        if isinstance(expectation, Nulls):
            counts.append(F.count_if(F.col(expectation.field).isNull()).alias(expectation.name))
        elif isinstance(expectation, Share):
            counts.append(F.count_if(F.expr(expectation.where)).alias(expectation.name))
    # One row a date.
    found = rows.groupBy(DS).agg(*counts).collect()
    return {
        row[DS]: {
            e.name: float(row["rows"] if e.name == "rows" else row[e.name] / row["rows"])
            for e in expectations
        }
        for row in found
    }


def _drifts(
    counts: DataFrame, dataset: Dataset, fields: Sequence[str], dates: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Stability index of each field on each date against all dates before it."""
    numeric = {f.name for f in (*dataset.of_kind(Numeric), *dataset.of_kind(NumericList))}
    # Fields that share a vocabulary are counted together, and so they drift together.
    counted = {f.name: f.log_name for f in dataset.counted}
    counted_as = {name: counted.get(name, name) for name in fields}
    by_day: dict[str, dict[str, Counter[int]]] = {name: {} for name in counted_as.values()}
    for row in _binned(counts, list(by_day), numeric, dates).collect():
        by_day[row["field"]].setdefault(row["day"], Counter())[row["bin"]] += row["rows"]
    found: dict[str, dict[str, float]] = {ds: {} for ds in dates}
    for name, count_name in counted_as.items():
        days, before = by_day[count_name], Counter[int]()
        for day in sorted(days):
            if day in found and before.total():
                found[day][f"psi:{name}"] = stability_index(before, days[day], name in numeric)
            before += days[day]
    return found


def _binned(
    counts: DataFrame, fields: Sequence[str], numeric: set[str], dates: Sequence[str]
) -> DataFrame:
    """Rows by field, day (all before the first of `dates` as one) and bin: of a number its bucket,
    of a value its hash."""
    is_number = F.col("field").isin(*numeric)
    value = F.pmod(F.xxhash64("value"), F.lit(_HASHES)).cast("long")
    bucket = F.col("value").cast("long")
    bin_ = F.coalesce(
        F.when(is_number, bucket).when(F.col("value").isNotNull(), value), F.lit(_NULL)
    )
    # A number's row without a bucket holds its sums, and the count of nulls.
    rows = F.when(is_number & F.col("value").isNull(), F.col("nulls")).otherwise(F.col("count"))
    day = F.when(F.col(DS) < min(dates), F.lit("")).otherwise(F.col(DS))
    wanted = counts.where(F.col("field").isin(*fields) & (F.col(DS) <= max(dates)))
    binned = wanted.select("field", day.alias("day"), bin_.alias("bin"), rows.alias("rows"))
    return binned.groupBy("field", "day", "bin").agg(F.sum("rows").alias("rows"))


def stability_index(before: Mapping[int, int], now: Mapping[int, int], ordered: bool) -> float:
    """The population stability index: sum of (q - p) ln(q / p) over groups of bins.

    Args:
        before: rows by bin; at least one row.
        now: rows by bin.
        ordered: the bins are of numbers: groups are tenths of `before`. Else they are the most
            frequent bins of `before`, and all others.

    Half a row is added to each group, so that an empty one counts and does not divide by 0.
    """
    groups = _tenths(before) if ordered else _most_frequent(before)
    sums_before: Counter[int] = Counter()
    sums_now: Counter[int] = Counter()
    for bin_ in sorted({*before, *now}):
        group = groups(bin_)
        sums_before[group] += before.get(bin_, 0)
        sums_now[group] += now.get(bin_, 0)
    names = sorted(sums_before)
    total_before = sum(sums_before.values()) + len(names) / 2
    total_now = sum(sums_now.values()) + len(names) / 2
    index = 0.0
    for group in names:
        p, q = (sums_before[group] + 0.5) / total_before, (sums_now[group] + 0.5) / total_now
        index += (q - p) * math.log(q / p)
    return index


def _tenths(before: Mapping[int, int]) -> Callable[[int], int]:
    """Bin to group: cut where each tenth of the rows before ends; null apart."""
    numbers = sorted(bin_ for bin_ in before if bin_ != _NULL)
    total = sum(before[bin_] for bin_ in numbers)
    ends: list[int] = []
    seen = 0
    for bin_ in numbers:
        seen += before[bin_]
        if seen * _GROUPS_OF_NUMBERS >= total * (len(ends) + 1):
            ends.append(bin_)
    return lambda bin_: -1 if bin_ == _NULL else bisect_left(ends[:-1], bin_)


def _most_frequent(before: Mapping[int, int]) -> Callable[[int], int]:
    """Bin to group: the most frequent ones and null each by itself, all others together."""
    ranked = sorted((-count, bin_) for bin_, count in before.items() if bin_ != _NULL)
    groups = {bin_: group for group, (_, bin_) in enumerate(ranked[: _GROUPS_OF_VALUES - 1])}
    groups[_NULL] = -1
    return lambda bin_: groups.get(bin_, _GROUPS_OF_VALUES)
