"""The reasons that a declaration can give for refusing a row, and limits on them by name."""

from __future__ import annotations

from collections.abc import Collection

from jobs.base.errors import refuse_unknown
from jobs.rows.base.names import DUPLICATE_KEY, ENCODING, MALFORMED, MARKS, REPEATED_HEADER
from jobs.rows.judge.statement import Statement
from schemas.dataset import Dataset
from schemas.source import Source


def possible_reasons(dataset: Dataset) -> list[str]:
    """All reasons of the declaration's rows, in their order."""
    never = set(MARKS) - _of_reading(dataset.row_source)
    rules = Statement(dataset, (), with_label=True).rules
    return [*(rule.reason for rule in rules if rule.reason not in never), DUPLICATE_KEY]


def _of_reading(source: Source) -> set[str]:
    """The reasons that reading files of the source can give."""
    match source.format:
        case "csv":
            return {ENCODING, MALFORMED, *([REPEATED_HEADER] if source.header else [])}
        case "json":
            return {ENCODING, MALFORMED}
        case "images":
            return set()
        case _:
            return {ENCODING}


def check_limits(dataset: Dataset, names: Collection[str]) -> None:
    """Refuses limits on what is no reason, nor a kind of reasons, of the declaration.

    Raises:
        ConfigError: names the nearest one.
    """
    reasons = possible_reasons(dataset)
    refuse_unknown("etl.limits", names, {*reasons, *(name.split(":")[0] for name in reasons)})
