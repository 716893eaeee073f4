"""Rules: the reasons that a row can be refused for, in the declaration's order, as conditions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from jobs.rows.base.names import LABEL_ABSENT, MARKS, ROW_DS, UNDATED
from jobs.rows.judge.casts import cast, is_text, is_whole
from jobs.rows.judge.strict import strict
from schemas.dataset import Dataset
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
from schemas.source import Column, quoted


@dataclass(frozen=True)
class Rule:
    """A reason against a row, and what SQL finds it by; empty where a mask tells (`masked`)."""

    reason: str
    condition: str = ""

    @property
    def masked(self) -> bool:
        return not self.condition


def rules_of(dataset: Dataset, with_label: bool) -> tuple[Rule, ...]:
    """All rules, those of texts that SQL does not judge among them."""
    found = [Rule(reason) for reason in MARKS]
    for place, column in enumerate(dataset.row_source.columns):
        if with_label or not column.of_label:
            found += _of_column(place, column, column.name in dataset.key)
    for join in dataset.joins:
        if join.required:
            found.append(Rule(f"no_parent:{join.source}", f"{quoted(join.source)} IS NULL"))
    found.append(Rule(UNDATED, f"{ROW_DS} = '{UNDATED}'"))
    for number, f in enumerate(dataset.fields):
        found += _of_field(number, f, with_label)
    return tuple(found)


def _of_column(place: int, column: Column, of_key: bool) -> Iterator[Rule]:
    name, given = quoted(column.name), f"__given_{place}"
    text = is_text(column)
    if not text:
        yield Rule(f"unparsable:{column.name}", f"{given} AND {name} IS NULL")
    if not column.nullable or of_key:
        yield Rule(f"null:{column.name}", "" if text else f"NOT {given}")
    number = f"TRY_CAST({name} AS DOUBLE)" if text else name
    if column.min is not None:
        yield Rule(f"below_min:{column.name}", f"{number} < {_least(column, column.min)}")
    if column.max is not None:
        yield Rule(f"above_max:{column.name}", f"{number} > {_greatest(column, column.max)}")
    if column.allowed is not None:
        yield Rule(f"not_allowed:{column.name}", "" if text else _not_allowed(column))
    if column.pattern is not None:
        yield Rule(f"pattern:{column.name}")


def _of_field(number: int, f: Field, with_label: bool) -> Iterator[Rule]:
    value, base = value_column(number), base_column(number)
    match f:
        case Numeric():
            yield Rule(f"not_finite:{f.name}")
        case Weight() if with_label:
            good = f"{value} IS NOT NULL AND isfinite({value}) AND {value} > 0"
            yield Rule(f"weight:{f.name}", f"NOT ({good})")
        case Label() if with_label:
            yield Rule(LABEL_ABSENT, f"{base} IS NULL")
            yield Rule(
                f"not_finite:{f.name}",
                f"{base} IS NOT NULL AND ({value} IS NULL OR NOT isfinite({value}))",
            )
            if f.task == "multiclass":
                known = f"{value} >= 0 AND {value} < {f.classes} AND {value} = floor({value})"
                yield Rule(f"no_class:{f.name}", f"NOT ({known})")
        case Tensor():
            size = 1
            for length in f.shape:
                size *= length
            whole = f"len({value}) = {size} AND list_count({value}) = {size}"
            yield Rule(f"shape:{f.name}", f"{value} IS NULL OR NOT ({whole})")
            yield Rule(f"not_finite:{f.name}", _not_finite(value))
        case NumericList() | CategoricalList():
            yield Rule(f"too_long:{f.name}", f"len({value}) > {f.max_length}")
            if isinstance(f, NumericList):
                yield Rule(f"null_element:{f.name}", f"list_count({value}) < len({value})")
                yield Rule(f"not_finite:{f.name}", _not_finite(value))
        case Image():
            for kind in ("image", "format", "depth", "shape"):
                yield Rule(f"{kind}:{f.name}")


def _not_finite(numbers: str) -> str:
    """True of a list with NaN or infinity."""
    return f"len(list_filter({numbers}, lambda x : NOT isfinite(x))) > 0"


def value_column(number: int) -> str:
    """The column of the value of the field of this number."""
    return f"__v{number}"


def base_column(number: int) -> str:
    """What its expression gives."""
    return f"__b{number}"


def _least(column: Column, bound: float) -> str:
    """What the column's values are below just where they are below the bound itself."""
    if is_whole(column):
        return f"CAST('{math.ceil(_limited(bound))}' AS HUGEINT)"
    nearest = float(bound)
    return _double(nearest if nearest >= bound else math.nextafter(nearest, math.inf))


def _greatest(column: Column, bound: float) -> str:
    """What the column's values are above just where they are above the bound itself."""
    if is_whole(column):
        return f"CAST('{math.floor(_limited(bound))}' AS HUGEINT)"
    nearest = float(bound)
    return _double(nearest if nearest <= bound else math.nextafter(nearest, -math.inf))


def _limited(bound: float) -> float:
    """Beyond all whole numbers that a column holds one bound is as good as another."""
    return max(-(2**64), min(2**64, bound))


def _double(number: float) -> str:
    return f"CAST('{number!r}' AS DOUBLE)"


def _not_allowed(column: Column) -> str:
    """True of a value that is none of the allowed ones."""
    name, allowed = quoted(column.name), ", ".join(allowed_values(column))
    return f"{name} IS NOT NULL AND NOT coalesce({name} IN ({allowed}), false)"


def allowed_values(column: Column) -> list[str]:
    """SQL of each allowed value, read as the column's own texts are: null where it is none."""
    texts = strict(pa.chunked_array([[str(v) for v in column.allowed or ()]]), column.type)
    return [cast(text_literal(text), column.type, False) for text in texts.to_pylist()]


def text_literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
