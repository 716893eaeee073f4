"""What a declaration may say of each column: types, ranges, fields, label; each with its reason."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jobs.base.errors import DataRefused
from jobs.init.dates import DatePlan
from jobs.init.names import in_sql, unique
from jobs.init.sample import Profile, Sample
from schemas.field import Task

MOST_CLASSES = 20
_FEW = 12
_UNIQUE_SHARE = 0.9
_LONG_TEXT = 40
# Statistics take ten times as much or little, and other rows may differ from the sample.
_LARGEST, _SMALLEST = 1e8, 1e-5
_NUMBER_OF_A_THING = re.compile(
    r"(?i)(^|[^a-z])(id|code|zip|plz|postcode|no|nr|key)$|[a-z](Id|ID)$"
)


@dataclass(frozen=True)
class Line:
    """A line of the declaration: code and the reason for it. Without code, only the reason."""

    code: str
    why: str


@dataclass(frozen=True)
class LabelPlan:
    column: str
    task: Task
    line: Line


@dataclass(frozen=True)
class Draft:
    """All that is guessed or was asked.

    Attributes:
        names: SQL name of each column of the header.
        key: columns of the header; none: a row is its line.
    """

    name: str
    sample: Sample
    names: Mapping[str, str]
    key: tuple[str, ...]
    label: LabelPlan
    date: DatePlan

    def columns(self) -> list[Line]:
        return [self._column(profile) for profile in self.sample.columns]

    def _column(self, profile: Profile) -> Line:
        name = self.names[profile.name]
        parts = [repr(name), repr(profile.type)]
        if profile.name in self.key:
            parts.append("nullable=False")
        elif profile.is_number and profile.low is not None and profile.high is not None:
            parts += proposed_range(profile)
        if profile.name == self.label.column:
            parts.append("of_label=True")
        if name != profile.name:
            parts.append(f"header={profile.name!r}")
        return Line(f"Column({', '.join(parts)})", seen(profile))

    def fields(self) -> list[Line]:
        """The label, then what the model sees.

        Raises:
            DataRefused: no column is of use.
        """
        found = [self.label.line]
        taken = {self.names[name].lower() for name in self.names} | {"label"}
        for profile in self.sample.columns:
            if profile.name not in (*self.key, self.label.column):
                found += self._fields(profile, taken)
        if sum(bool(line.code) for line in found) == 1:
            raise DataRefused(
                f"besides label {self.label.column!r} and the key no column is of use to a model",
                "a column with more than one value, and not another one in each row",
            )
        return found

    def _fields(self, profile: Profile, taken: set[str]) -> Iterator[Line]:
        name = self.names[profile.name]
        if profile.distinct < 2:
            yield Line("", f"{name} is not used: it says always the same")
        elif profile.type in ("date", "timestamp"):
            yield from self._calendar(profile, taken)
        elif profile.name == self.date.column:
            yield Line("", f"{name} is not used: it is the row's date")
        elif is_running_number(profile):
            yield Line("", f"{name} is not used: it numbers the rows")
        elif profile.type == "boolean":
            yield Line(f"Numeric({name!r})", "0 or 1")
        elif profile.is_number and not is_category(profile):
            yield _number(profile, name)
        else:
            yield self._category(profile)

    def _calendar(self, profile: Profile, taken: set[str]) -> Iterator[Line]:
        name = self.names[profile.name]
        weekday = unique(f"{name}_weekday".lower(), taken)
        sql = f"dayofweek({in_sql(name)}) + 1"
        yield Line(f"Categorical({weekday!r}, {sql!r})", "1 Sunday to 7 Saturday")
        if profile.type == "timestamp":
            hour = unique(f"{name}_hour".lower(), taken)
            sql = f"hour({in_sql(name)})"
            yield Line(f"Categorical({hour!r}, {sql!r})", "0 to 23, in UTC")

    def _category(self, profile: Profile) -> Line:
        name = self.names[profile.name]
        if profile.distinct > 50 and profile.distinct > _UNIQUE_SHARE * profile.values:
            what = "free text" if profile.mean_characters > _LONG_TEXT else "its own in nearly each"
            return Line("", f"{name} is not used: {what} row, nothing to learn from")
        if profile.distinct > 1000:
            return Line(
                f"Categorical({name!r}, min_count=5, oov_buckets=64)",
                "many values: those seen 5 times get an id, others share 64",
            )
        if profile.distinct > _FEW:
            return Line(
                f"Categorical({name!r}, min_count=2, oov_buckets=4)",
                "values seen twice get an id, others share 4",
            )
        return Line(f"Categorical({name!r})", "few values, each with an id")


def _number(profile: Profile, name: str) -> Line:
    assert profile.low is not None and profile.high is not None
    if 0 < (largest := max(-profile.low, profile.high)) < _SMALLEST:
        power = min(300, -math.floor(math.log10(largest)))
        code = f"Numeric({name!r}, transforms=(Scale(1e{power}),))"
        return Line(code, f"in units of 1e-{power}: statistics take numbers from 1e-6 on")
    if is_skewed(profile):
        code = f"Numeric({name!r}, transforms=(Log1p(),))"
        return Line(code, "a few large values: its logarithm")
    if largest > _LARGEST:
        power = math.floor(math.log10(largest))
        code = f"Numeric({name!r}, transforms=(Scale(1e-{power}),))"
        return Line(code, f"in units of 1e{power}: statistics take numbers up to 1e9")
    return Line(f"Numeric({name!r})", "a number")


def seen(profile: Profile) -> str:
    """What the sample holds of a column, in a few words."""
    empty = f"; {profile.nulls / max(1, profile.rows):.1%} empty" if profile.nulls else ""
    if profile.unlike:
        empty += f"; {profile.unlike:,} refused, such as {_short(profile.example)!r}"
    if not profile.values:
        return "no value at all"
    if profile.is_number:
        return f"{profile.low:.6g} to {profile.high:.6g}, median {profile.median:.6g}{empty}"
    if profile.type in ("date", "timestamp"):
        return f"{profile.first} to {profile.last}{empty}"
    texts = ", ".join(_short(text) for text, _ in profile.common[:3])
    more = ", ..." if profile.distinct > 3 else ""
    return f"{profile.distinct:,} values: {texts}{more}{empty}"


def _short(text: str) -> str:
    plain = re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()
    return plain if len(plain) <= 24 else f"{plain[:21]}..."


def proposed_range(profile: Profile) -> list[str]:
    """Twice what was seen, rounded to 1, 2 or 5 with zeros; 0 where all is on one side of it."""
    assert profile.low is not None and profile.high is not None
    low = 0.0 if profile.low >= 0 else -_round_up(-2 * profile.low)
    high = 0.0 if profile.high <= 0 else _round_up(2 * profile.high)
    if profile.type == "bigint" and low == 0 and profile.high <= 1:
        high = 1.0
    bounds = {"min": low, "max": high}
    return [f"{name}={bound:.15g}" for name, bound in bounds.items() if math.isfinite(bound)]


def _round_up(value: float) -> float:
    """What is at the ends of all numbers has no such bound, or itself."""
    if not 1e-300 < value < 1e300:
        return value if value < 1 else math.inf
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-9))


def is_running_number(profile: Profile) -> bool:
    """Another whole number in each row, with few gaps."""
    if profile.type != "bigint" or profile.distinct < max(20, profile.values):
        return False
    assert profile.low is not None and profile.high is not None
    return profile.high - profile.low < 2 * profile.distinct


def is_category(profile: Profile) -> bool:
    """A number that names a thing, or one of a few."""
    if profile.type != "bigint":
        return False
    return profile.distinct <= _FEW or bool(_NUMBER_OF_A_THING.search(profile.name))


def is_skewed(profile: Profile) -> bool:
    assert profile.low is not None and profile.high is not None and profile.median is not None
    return profile.low >= 0 and profile.high > 20 * max(profile.median, 1.0)


def label_plan(profile: Profile, names: Mapping[str, str]) -> LabelPlan:
    """What the model predicts, by the label column's values.

    Args:
        names: SQL names of the header's columns.

    Raises:
        DataRefused: one value only, none, or a text with too many.
    """
    column, name = profile.name, in_sql(names[profile.name])
    others = {other.lower() for header, other in names.items() if header != column}
    field = next((free for free in ("label", "target") if free not in others), "")
    field = field or unique("predicted_value", others)
    if profile.distinct < 2 or (profile.is_number and profile.low == profile.high):
        raise DataRefused(f"label {column!r} has {min(1, profile.distinct)} value", "two or more")
    ends = sorted(text for text, _ in profile.common) if profile.distinct == 2 else []
    if profile.type == "boolean" or ends == ["0", "1"]:
        why = "0 or 1" if ends == ["0", "1"] else "1 where true"
        return _binary(column, field, f"CAST({name} AS FLOAT)", why)
    if ends:
        return _of_two(profile, field, name)
    if profile.is_number:
        return _regression(profile, field, name)
    if profile.distinct > MOST_CLASSES or profile.type != "string":
        raise DataRefused(
            f"label {column!r} has {profile.distinct:,} values that are no numbers, such as "
            f"{profile.first!r}",
            f"0/1, yes/no, a number, or at most {MOST_CLASSES} classes",
        )
    return _multiclass(profile, field, name)


def _binary(column: str, field: str, sql: str, why: str) -> LabelPlan:
    return LabelPlan(column, "binary", Line(f"Label({field!r}, {sql!r})", why))


def _of_two(profile: Profile, field: str, name: str) -> LabelPlan:
    """The rarer of two values is the one to predict."""
    value = profile.common[1][0]
    literal = value.strip() if profile.is_number else _sql_literal(value)
    sql = f"CAST({name} = {literal} AS FLOAT)"
    return _binary(profile.name, field, sql, f"1 where it is {value!r}, the rarer of two values")


def _regression(profile: Profile, field: str, name: str) -> LabelPlan:
    power = round(math.log10(profile.spread)) if 0 < profile.spread < math.inf else 0
    scaled = f"{name} / 1e{power}" if power else name
    why = "a number" if not power else f"in units of 1e{power}: near 1 is where training is at home"
    line = Line(f"Label({field!r}, {scaled!r}, task='regression')", why)
    return LabelPlan(profile.name, "regression", line)


def _multiclass(profile: Profile, field: str, name: str) -> LabelPlan:
    texts = sorted(text for text, _ in profile.common)
    cases = " ".join(f"WHEN {_sql_literal(text)} THEN {i}" for i, text in enumerate(texts))
    code = (
        f"Label({field!r}, {f'CASE {name} {cases} END'!r}, task='multiclass', classes={len(texts)})"
    )
    return LabelPlan(profile.name, "multiclass", Line(code, "the number of the class"))


def _sql_literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
