"""Where a row's date comes from: a column, the file's path, or one date for all rows."""

from __future__ import annotations

import datetime as dt
import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.base.errors import ConfigError, DataRefused
from jobs.init.names import in_sql
from jobs.init.sample import Profile, Sample, read_as

_ISO = re.compile(r"\d{4}-\d{2}-\d{2}")
# Dates as texts: what they look like, and how the parts are put in order. DuckDB's strptime would
# also take a year of two digits, and no time behind the date.
_FORMS = (
    (r"^ *(\d{4})(\d{2})(\d{2}) *$", r"\1-\2-\3"),
    (r"^ *(\d{4})/(\d{1,2})/(\d{1,2})(?:[ T].*)?$", r"\1-\2-\3"),
    (r"^ *(\d{1,2})\.(\d{1,2})\.(\d{4})(?: .*)?$", r"\3-\2-\1"),
    (r"^ *(\d{1,2})/(\d{1,2})/(\d{4})(?: .*)?$", r"\3-\2-\1"),
    (r"^ *(\d{1,2})/(\d{1,2})/(\d{4})(?: .*)?$", r"\3-\1-\2"),
)
_TYPED = ("date", "timestamp")
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
        days: of the sample's rows [n], where a column says them.
    """

    column: str
    sql: str | None
    path: str
    first: str
    last: str
    why: str
    days: Any = field(default=None, compare=False)


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
    return [column.name for column in sample.columns if len(_forms(sample, column)) == 1]


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
    forms = _forms(sample, profile)
    if len(forms) != 1:
        examples = ", ".join(text for text, _ in profile.common[:3])
        raise DataRefused(
            f"column {column!r} does not hold one kind of date: {examples}",
            "YYYY-MM-DD, with a time behind it or not; or YYYYMMDD, DD.MM.YYYY, MM/DD/YYYY",
            "name another column, or give one date for all rows: --date YYYY-MM-DD",
        )
    ((form, days),) = forms.items()
    text = name if profile.type in ("string", *_TYPED) else f"CAST({name} AS VARCHAR)"
    known = pc.unique(days.drop_null()).sort().to_pylist()
    why = f"the row's date; {len(known)} in the rows read, {known[0]} to {known[-1]}"
    return DatePlan(column, form.replace("{}", text), path, known[0], known[-1], why, days)


def _forms(sample: Sample, profile: Profile) -> dict[str, Any]:
    """The SQL that makes dates of a column, `{}` in its place, and each row's date by it [n].

    Of texts there is none where they are no dates, and more than one where they are ambiguous. Few
    values of a column of a type of dates may be none: their rows are undated.
    """
    if profile.nulls > _MOST_UNDATED * profile.rows or not profile.values:
        return {}
    column = sample.table[profile.name]
    given = pc.invert(pc.is_in(column, pa.array(["", sample.null_value])))
    texts = pc.if_else(given, column, None)
    if profile.type in _TYPED:
        return {"{}" if profile.type == "date" else "CAST({} AS DATE)": _days(texts, profile.type)}
    found = {}
    for pattern, order in _FORMS:
        days = _days(pc.replace_substring_regex(texts, pattern, order), "date")
        ordered = pc.fill_null(pc.match_substring_regex(texts, pattern), True)
        if pc.all(ordered).as_py() and days.null_count == texts.null_count:
            found[f"TRY_CAST(regexp_replace({{}}, '{pattern}', '{order}') AS DATE)"] = days
    return found


def _days(texts: Any, kind: str) -> Any:
    return pc.floor_temporal(read_as(texts, kind), unit="day").cast(pa.date32()).cast(pa.string())


def source_path(file: str, folder: str) -> str:
    """The file's path as the settings in `folder` name it: a glob that matches it alone.

    Raises:
        ConfigError: no glob does.
    """
    path = os.path.relpath(os.path.realpath(file), os.path.realpath(folder))
    if "{" in path:
        raise ConfigError(
            f"{path} has a brace in its path", "a path without, since in etl.sources {a,b} is two"
        )
    return glob.escape(path)
