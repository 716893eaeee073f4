"""Init: a user's file becomes a first declaration and settings, which run as they are.

millstream init --from clicks.csv --label clicked --key click --date day
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.base.errors import ConfigError, DataRefused
from jobs.init.dates import DatePlan, date_columns, date_plan, source_path
from jobs.init.draft import Draft, label_plan, seen
from jobs.init.layout import layout_of
from jobs.init.names import data_name, sql_names
from jobs.init.sample import Sample, sample_of
from jobs.init.text import declaration_text, settings_text, spark_text
from jobs.settings.load import load_settings

_SUFFIXES = (".py", ".yaml", ".spark.conf")
# As in etl.max_quarantined_fraction.
_MOST_REPEATED = 0.05


@dataclass(frozen=True)
class Wishes:
    """What the user gave as options; None: to be asked or guessed.

    Attributes:
        key: columns; empty: none.
        date: a column, or a date for all rows.
    """

    file: str
    folder: str
    label: str | None = None
    key: tuple[str, ...] | None = None
    date: str | None = None
    name: str | None = None


def run(wishes: Wishes, ask: Callable[[str], str] | None) -> str:
    """Writes `NAME.py`, `NAME.yaml` and `NAME.spark.conf`; returns what to do next.

    Args:
        ask: shows a question and returns the answer; None where nobody can be asked.

    Raises:
        ConfigError: a column that is not there, a file that is; something that must be asked.
        DataRefused: the file or a column cannot be used.
    """
    path, folder = Path(wishes.file), Path(wishes.folder)
    name = data_name(wishes.name or path.name.split(".")[0])
    written = [folder / f"{name}{suffix}" for suffix in _SUFFIXES]
    for file in written:
        if file.exists():
            raise ConfigError(f"{file} is there already", "a new name: --name, or --to FOLDER")
    draft = _draft(sample_of(path, layout_of(path)), wishes, name, ask)
    texts = [declaration_text(draft), settings_text(draft), spark_text(draft)]
    _check(name, texts)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in zip(written, texts, strict=True):
        file.write_text(text, encoding="utf-8")
    return _next_steps(written, draft.date)


def _draft(sample: Sample, wishes: Wishes, name: str, ask: Callable[[str], str] | None) -> Draft:
    names = sql_names(sample.layout.names)
    if ask is not None and (wishes.label is None or wishes.key is None):
        ask = _after_table(ask, sample)
    label = _chosen(sample, wishes.label, ask)
    path = source_path(wishes.file, wishes.folder)
    date = date_plan(sample, names, path, wishes.date)
    if date is None:
        date = date_plan(sample, names, path, _date_answer(sample, ask))
    assert date is not None
    key = _key(sample, wishes.key, label, date, ask)
    return Draft(name, sample, names, key, label_plan(sample.column(label), names), date)


def _after_table(ask: Callable[[str], str], sample: Sample) -> Callable[[str], str]:
    """Asks with the columns shown before the first question."""
    width = max(len(column.name) for column in sample.columns)
    lines = [f"  {c.name:<{width}}  {c.type:<9}  {seen(c)}" for c in sample.columns]
    shown = "\n".join([f"{sample.rows:,} rows read; the columns:", *lines, ""])

    def asked(question: str) -> str:
        nonlocal shown
        text, shown = shown + question, ""
        return ask(text)

    return asked


def _chosen(sample: Sample, label: str | None, ask: Callable[[str], str] | None) -> str:
    if label is None and ask is not None:
        label = ask("Which column shall be predicted? ").strip()
    columns = ", ".join(sample.layout.names)
    if not label:
        raise ConfigError("no label", f"--label COLUMN, one of {columns}")
    return _known(sample, label, "--label")


def _known(sample: Sample, column: str, option: str) -> str:
    if column not in sample.layout.names:
        columns = ", ".join(sample.layout.names)
        raise ConfigError(f"{option} {column!r}: no such column", f"one of {columns}")
    return column


def _key(
    sample: Sample,
    key: tuple[str, ...] | None,
    label: str,
    date: DatePlan,
    ask: Callable[[str], str] | None,
) -> tuple[str, ...]:
    if key is None and ask is not None:
        answer = ask("Which columns make a row unique within a date? (empty: none) ")
        key = tuple(part.strip() for part in answer.split(",") if part.strip())
    for name in key or ():
        _known(sample, name, "--key")
        if name == label:
            raise ConfigError(f"--key {name!r} is the label", "other columns")
    if key:
        _check_is_key(sample, key, date)
    return key or ()


def _check_is_key(sample: Sample, key: Sequence[str], date: DatePlan) -> None:
    """Refuses a key that would send more rows to quarantine than the ETL takes."""
    rows = sample.table.select(sorted({*key}))
    if date.days is not None:
        rows = rows.append_column("__day", date.days)
    different = rows.group_by(rows.column_names).aggregate([]).num_rows
    empty = max(sample.column(name).nulls for name in key)
    for count, what in ((empty, "are empty"), (sample.rows - different, "are repetitions")):
        if count > _MOST_REPEATED * sample.rows:
            raise DataRefused(
                f"key {', '.join(key)}: {count:,} of {sample.rows:,} rows {what}",
                "columns that make a row unique within its date",
                "give more columns, as in --key user,time; or none with --key ''",
            )


def _date_answer(sample: Sample, ask: Callable[[str], str] | None) -> str:
    columns = date_columns(sample)
    which = f"columns with dates: {', '.join(columns)}" if columns else "no column has dates"
    answer = ask(f"Which column, or which YYYY-MM-DD, is the date? ({which}) ") if ask else ""
    if not answer.strip():
        raise ConfigError(
            f"no date, and the path holds none ({which})", "--date COLUMN, or --date YYYY-MM-DD"
        )
    return answer.strip()


def _check(name: str, texts: Sequence[str]) -> None:
    """What is written can be loaded, or nothing is written."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix, text in zip(_SUFFIXES, texts, strict=True):
            Path(folder, f"{name}{suffix}").write_text(text, encoding="utf-8")
        load_settings(Path(folder, f"{name}.yaml")).dataset()


def _next_steps(written: Sequence[Path], date: DatePlan) -> str:
    declaration, config, spark = (shlex.quote(str(path)) for path in written)
    dates = (
        f"--dates {date.first}..{date.last}" if date.first < date.last else f"--date {date.last}"
    )
    return (
        f"init: wrote {declaration}, {config} and {spark}; read them, then\n"
        f"  millstream etl --config {config} {dates}\n"
        f"  millstream train --config {config}\n"
        f"  millstream evaluate --config {config}\n"
        f"and every night\n"
        f"  millstream nightly --config {config} --date {date.last}"
    )
