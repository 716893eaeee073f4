"""The reasons that a declaration can give for refusing a row, and limits on them by name."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

from jobs.base.errors import ConfigError
from schemas.dataset import Column, Dataset
from schemas.field import (
    CategoricalList,
    Field,
    Image,
    Label,
    Numeric,
    NumericList,
    Tensor,
    Weight,
)


def possible_reasons(dataset: Dataset) -> list[str]:
    """All reasons of the declaration's rows, in no special order."""
    source = dataset.row_source
    reasons = ["duplicate_key", "undated", "label_absent"]
    if source.format != "images":
        reasons.append("encoding")
    if source.format in ("csv", "json"):
        reasons.append("malformed")
    reasons += [f"no_parent:{join.source}" for join in dataset.joins if join.required]
    for column in source.columns:
        reasons += _of_column(column, column.name in dataset.key)
    for f in dataset.fields:
        reasons += [f"{kind}:{f.name}" for kind in _kinds(f)]
    return reasons


def _of_column(column: Column, is_key: bool) -> Iterator[str]:
    rules = {
        "unparsable": True,
        "null": is_key or not column.nullable,
        "below_min": column.min is not None,
        "above_max": column.max is not None,
        "not_allowed": column.allowed is not None,
        "pattern": column.pattern is not None,
    }
    return (f"{kind}:{column.name}" for kind, applies in rules.items() if applies)


def _kinds(f: Field) -> tuple[str, ...]:
    match f:
        case Numeric() | Label():
            return ("not_finite",)
        case NumericList():
            return ("not_finite", "null_element", "too_long")
        case CategoricalList():
            return ("too_long",)
        case Weight():
            return ("weight",)
        case Tensor():
            return ("shape",)
        case Image():
            return ("image", "format", "depth", "shape")
        case _:
            return ()


def check_limits(dataset: Dataset, names: Collection[str]) -> None:
    """Refuses limits on what is no reason, nor a kind of reasons, of the declaration.

    Raises:
        ConfigError: names the nearest one.
    """
    reasons = possible_reasons(dataset)
    refuse_unknown("etl.limits", names, {*reasons, *(name.split(":")[0] for name in reasons)})


def refuse_unknown(setting: str, names: Collection[str], known: Collection[str]) -> None:
    """Refuses a setting with names that are not known.

    Raises:
        ConfigError: names the nearest one.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            raise ConfigError(
                f"{setting}: {name!r} is unknown"
                + (f"; did you mean {near[0]!r}?" if near else ""),
                f"some of {', '.join(sorted(known)) or 'none: the declaration has none'}",
            )
