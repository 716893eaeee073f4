"""Where a row's date comes from: a column, the file's path, or one date for all rows."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow.compute as pc

from jobs.base.errors import ConfigError, DataRefused
from jobs.init.names import in_sql
from jobs.init.sample import Profile, Sample

_ISO = re.compile(r"\d{4}-\d{2}-\d{2}")
# Dates as texts: what they look like, and how the parts are put in order. DuckDB's strptime would
# also take a year of two digits, and no time behind the date.
_FORMS = (
    (r"^(\d{4})(\d{2})(\d{2})$", r"\1-\2-\3"),
    (r"^(\d{4})/(\d{1,2})/(\d{1,2})(?:[ T].*)?$", r"\1-\2-\3"),
    (r"^(\d{1,2})\.(\d{1,2})\.(\d{4})(?: .*)?$", r"\3-\2-\1"),
    (r"^(\d{1,2})/(\d{1,2})/(\d{4})(?: .*)?$", r"\3-\2-\1"),
    (r"^(\d{1,2})/(\d{1,2})/(\d{4})(?: .*)?$", r"\3-\1-\2"),
)
_MOST_UNDATED = 0.01


@dataclass(frozen=True)
class DatePlan:
    """How rows get their date.

    Attributes:
        column: in the header; empty when no column says it.
        sql: the declaration's `ds`; None when the path says it.
        path: of the settings' source, with `{ds}` where the date stands.
        first, last: dates of the sample.
        why: for the comment.
    """

    column: str
    sql: str | None
    path: str
    first: str
    last: str
    why: str


def date_plan(
    sample: Sample, names: Mapping[str, str], path: str, wanted: str | None
) -> DatePlan | None:
    """The plan that was asked for, or the only one that the file allows; None: ask.

    Args:
        names: SQL names of the header's columns.
        path: of the file, as the settings will have it.
        wanted: a column of the header, or a date as YYYY-MM-DD.

    Raises:
        ConfigError: no such column.
        DataRefused: the column holds no dates.
    """
    if wanted is not None:
        if wanted in names:
            return _of_column(sample, names, path, wanted)
        return _of_all(path, wanted, tuple(names))
    if found := _ISO.search(path):
        day = found[0]
        why = "the date is in the path: {ds} of etl.sources"
        return DatePlan("", None, path.replace(day, "{ds}"), day, day, why)
    candidates = [c.name for c in sample.columns if c.type in ("date", "timestamp")]
    if len(candidates) != 1:
        return None
    return _of_column(sample, names, path, candidates[0])


def date_columns(sample: Sample) -> list[str]:
    """Columns that can say the date."""
    return [column.name for column in sample.columns if _form(sample, column) is not None]


def _of_all(path: str, wanted: str, columns: tuple[str, ...]) -> DatePlan:
    try:
        day = dt.date.fromisoformat(wanted).isoformat()
    except ValueError:
        raise ConfigError(
            f"--date {wanted}: no such column", f"a date YYYY-MM-DD, or one of {', '.join(columns)}"
        ) from None
    why = "all rows are of this date; once files land by date, use None and {ds} in the path"
    return DatePlan("", f"DATE'{day}'", path, day, day, why)


def _of_column(sample: Sample, names: Mapping[str, str], path: str, column: str) -> DatePlan:
    profile, name = sample.column(column), in_sql(names[column])
    form = _form(sample, profile)
    if form is None:
        examples = ", ".join(text for text, _ in profile.common[:3])
        raise DataRefused(
            f"column {column!r} does not hold one kind of date: {examples}",
            "YYYY-MM-DD, with a time behind it or not; or YYYYMMDD, DD.MM.YYYY, MM/DD/YYYY",
            "name another column, or give one date for all rows: --date YYYY-MM-DD",
        )
    pattern, order = form
    days = _days(sample, column, pattern, order)
    if profile.type in ("date", "timestamp"):
        sql = name if profile.type == "date" else f"CAST({name} AS DATE)"
    else:
        text = name if profile.type == "string" else f"CAST({name} AS VARCHAR)"
        sql = f"TRY_CAST(regexp_replace({text}, '{pattern}', '{order}') AS DATE)"
    why = f"the row's date; {len(days)} in the rows read, {days[0]} to {days[-1]}"
    return DatePlan(column, sql, path, days[0], days[-1], why)


def _form(sample: Sample, profile: Profile) -> tuple[str, str] | None:
    """Pattern and order of a column's dates; None when it holds none, or they are ambiguous."""
    if profile.nulls > _MOST_UNDATED * profile.rows or not profile.values:
        return None
    if profile.type in ("date", "timestamp"):
        return r"^(\d{4})-(\d{1,2})-(\d{1,2})(?:[ T].*)?$", r"\1-\2-\3"
    fitting = [form for form in _FORMS if _days(sample, profile.name, *form)]
    return fitting[0] if len(fitting) == 1 else None


def _days(sample: Sample, column: str, pattern: str, order: str) -> list[str]:
    """The column's dates, in order; none when a value is no date of this form.

    Few values of a column of dates may be none: their rows are undated.
    """
    is_typed = sample.column(column).type in ("date", "timestamp")
    texts = pc.unique(sample.table[column]).to_pylist()
    parts = tuple(int(part) for part in re.findall(r"\\(\d)", order))
    days = set()
    for text in texts:
        if text in ("", sample.null_value):
            continue
        match = re.match(pattern, text.strip())
        try:
            if match is None:
                raise ValueError
            days.add(dt.date(*(int(match[part]) for part in parts)).isoformat())
        except ValueError:
            if not is_typed:
                return []
    return sorted(days)


def source_path(file: str, folder: str) -> str:
    """The file's path as the settings in `folder` name it."""
    return os.path.relpath(os.path.realpath(file), os.path.realpath(folder))
