"""A judge of delimited files that shares no code with the engine: a line at a time, by hand.

It knows what `docs/raw.md` says, and no more than the hostile declarations need: no expressions but
columns, no joins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np

from schemas.dataset import Column, Dataset, Source
from schemas.field import (
    Carried,
    Categorical,
    Clip,
    Field,
    Label,
    Log1p,
    Numeric,
    Scale,
    Timestamp,
    Weight,
)

BOM = b"\xef\xbb\xbf"
_BITS = {"tinyint": 8, "smallint": 16, "int": 32, "integer": 32, "bigint": 64, "long": 64}
_TRUE, _FALSE = {"true", "t", "yes", "y", "1"}, {"false", "f", "no", "n", "0"}


@dataclass
class Row:
    """A line and what it is worth."""

    raw: str
    reasons: list[str] = field(default_factory=list)
    key: tuple[Any, ...] = ()
    ds: str = ""
    values: dict[str, Any] = field(default_factory=dict)


def rows_of(content: bytes, dataset: Dataset, with_label: bool = True, ds: str = "") -> list[Row]:
    """The rows of a UTF-8 file, in order.

    Args:
        ds: the date that the file's path says.
    """
    return [_row(line, dataset, with_label, ds) for line in _lines(content, dataset.row_source)]


def _lines(content: bytes, source: Source) -> Iterator[bytes]:
    """Without blank lines, comments and the header."""
    headers = 1 if source.header else 0
    for line in content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        while line.startswith(BOM):
            line = line[len(BOM) :]
        if not line.strip(b" ") or (source.comment and line.startswith(source.comment.encode())):
            continue
        if headers:
            headers -= 1
            continue
        yield line


def _row(line: bytes, dataset: Dataset, with_label: bool, ds: str) -> Row:
    source = dataset.row_source
    row = Row(_shown(line), ds=ds)
    if row.raw.encode() != line:
        row.reasons.append("encoding")
    cells = _cells(row.raw, source)
    count = len(source.columns)
    unread = cells is None or len(cells) > count + 1000
    whole = cells is not None and len(cells) == count
    row.reasons += [] if whole else ["malformed"]
    texts = [None] * count if unread or cells is None else [*cells, *[None] * count][:count]
    nulls = {None, "", source.null_value}
    given = [None if text in nulls else text for text in texts]
    if source.header and whole and cells == list(source.header_names):
        row.reasons.append("repeated_header")
        unread, given = True, [None] * count
    values: dict[str, Any] = {}
    for column, text in zip(source.columns, given, strict=True):
        values[column.name] = None if text is None else _value(column, text)
        if not unread and (with_label or not column.of_label):
            required = not column.nullable or column.name in dataset.key
            row.reasons += _broken(column, required, text, values[column.name])
    if dataset.ds is not None:
        row.ds = "undated" if values[dataset.ds] is None else values[dataset.ds].isoformat()
        row.reasons += ["undated"] if row.ds == "undated" else []
    row.key = tuple(values[name] for name in dataset.key)
    for f in dataset.fields:
        found, reasons = _of_field(f, values[f.expr or f.name], with_label)
        row.values[f.name] = found
        row.reasons += [] if unread else reasons
    return row


def _shown(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return "".join(_escaped(c) for c in line.decode("utf-8", "surrogateescape"))


def _escaped(c: str) -> str:
    if "\udc80" <= c <= "\udcff":
        return f"\\x{ord(c) - 0xDC00:02x}"
    if c == "\\":
        return "\\\\"
    return c if c < "\x80" else "".join(f"\\x{byte:02x}" for byte in c.encode())


def _cells(line: str, source: Source) -> list[str] | None:
    """The values between delimiters; None where a quote does not close as it must."""
    cells, place = [], 0
    while True:
        if source.quote and line[place : place + 1] == source.quote:
            found = _quoted(line, place + 1, source)
            if found is None:
                return None
            cell, place = found
        else:
            end = line.find(source.delimiter, place)
            end = len(line) if end < 0 else end
            cell, place = line[place:end], end
        cells.append(cell)
        if place == len(line):
            return cells
        if not line.startswith(source.delimiter, place):
            return None
        place += len(source.delimiter)


def _quoted(line: str, place: int, source: Source) -> tuple[str, int] | None:
    """The value whose opening quote stands before, and where it ends."""
    cell = ""
    doubled = not source.escape
    while place < len(line):
        here, following = line[place], line[place + 1 : place + 2]
        if doubled and here == source.quote and following == source.quote:
            cell, place = cell + here, place + 2
        elif not doubled and here == source.escape and following in (source.quote, source.escape):
            cell, place = cell + following, place + 2
        elif here == source.quote:
            return cell, place + 1
        else:
            cell, place = cell + here, place + 1
    return None


# Types


def _value(column: Column, text: str) -> Any:
    """None where the text is none of the type."""
    kind = column.type.strip().lower()
    if kind == "string":
        return text
    text = text.strip(" ")
    if kind in _BITS:
        if not re.fullmatch("[+-]?[0-9]+", text):
            return None
        limit = 2 ** (_BITS[kind] - 1)
        number = int(Decimal(text))
        return number if -limit <= number < limit else None
    if kind in ("float", "double"):
        if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
            return None
        found = float(text) if kind == "double" else _float32(text)
        return found if math.isfinite(found) else None
    if kind == "boolean":
        small = text.lower()
        return True if small in _TRUE else False if small in _FALSE else None
    return _moment(text) if kind == "timestamp" else _day(text)


def _float32(text: str) -> float:
    """The nearest float32 of a decimal number, found without a double between."""
    if not 1e-60 < abs(float(text)) < 1e60:
        return math.copysign(0.0 if abs(float(text)) < 1 else math.inf, float(text))
    return _nearest(Fraction(Decimal(text)))


def _nearest(exact: Fraction) -> float:
    with np.errstate(all="ignore"):
        guess = np.float32(float(exact))
        around = [np.nextafter(guess, np.float32(end)) for end in (-np.inf, np.inf)]
    candidates = [guess, *around]

    def distance(x: np.float32) -> tuple[Fraction, int]:
        # Beyond the greatest stands what would be the next one.
        value = Fraction(float(x)) if np.isfinite(x) else Fraction(2**128) * int(np.sign(x))
        return abs(value - exact), int(x.view(np.uint32)) & 1

    best = min(candidates, key=distance)
    return float(best) if best or exact > 0 else -0.0 if exact < 0 else 0.0


def _day(text: str) -> date | None:
    found = re.fullmatch("([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})", text)
    try:
        return date(*map(int, found.groups())) if found else None
    except ValueError:
        return None


def _moment(text: str) -> datetime | None:
    found = re.fullmatch(
        "([0-9]{4}-[0-9]{1,2}-[0-9]{1,2})"
        r"(?:[ T]([0-9]{1,2}):([0-9]{1,2})(?::([0-9]{1,2})(?:\.([0-9]{1,9}))?)?"
        "( ?(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?))?)?",
        text,
    )
    if found is None or (day := _day(found[1])) is None:
        return None
    parts = [int(part or 0) for part in (found[2], found[3], found[4])]
    zone = (found[6] or "").strip(" Z").replace(":", "")
    if parts[0] > 23 or parts[1] > 59 or parts[2] > 59:
        return None
    offset = timedelta(hours=int(zone[1:3] or 0), minutes=int(zone[3:] or 0)) if zone else 0
    moment = datetime(day.year, day.month, day.day, *parts, int((found[5] or "")[:6].ljust(6, "0")))
    moment -= (offset or timedelta()) * (-1 if zone[:1] == "-" else 1)
    return moment.replace(tzinfo=UTC)


# Rules


def _broken(column: Column, required: bool, text: str | None, value: Any) -> Iterator[str]:
    if text is not None and value is None:
        yield f"unparsable:{column.name}"
    if required and text is None:
        yield f"null:{column.name}"
    if value is not None and column.min is not None and Fraction(value) < Fraction(column.min):
        yield f"below_min:{column.name}"
    if value is not None and column.max is not None and Fraction(value) > Fraction(column.max):
        yield f"above_max:{column.name}"
    if value is not None and column.allowed is not None:
        allowed = [_value(column, str(item)) for item in column.allowed]
        if value not in [item for item in allowed if item is not None]:
            yield f"not_allowed:{column.name}"
    if text is not None and column.pattern is not None:
        wanted = column.pattern.replace("$", r"\Z")
        if re.search(wanted, text) is None:
            yield f"pattern:{column.name}"


# Fields


def _of_field(f: Field, value: Any, with_label: bool) -> tuple[Any, Sequence[str]]:
    """The field's value before encoding, and what is against it."""
    match f:
        case Label():
            if not with_label:
                return None, []
            found = _as_float32(value)
            absent = ["label_absent"] if value is None else []
            lost = found is not None and not math.isfinite(found)
            return found, [*absent, *([f"not_finite:{f.name}"] if lost else [])]
        case Weight():
            found = _as_float32(value)
            if not with_label:
                return found if found is None or math.isfinite(found) else None, []
            good = found is not None and math.isfinite(found) and found > 0
            return found, [] if good else [f"weight:{f.name}"]
        case Numeric():
            found = None if value is None else _as_float32(_transformed(f, float(value)))
            lost = found is not None and not math.isfinite(found)
            return found, [f"not_finite:{f.name}"] if lost else []
        case Categorical() | Carried() | Timestamp():
            return value, []
    raise AssertionError(f)


def _as_float32(value: float | int | None) -> float | None:
    if value is None or not math.isfinite(value):
        return value
    if value == 0:
        return float(value)
    return _nearest(Fraction(value))


def _transformed(f: Numeric, x: float) -> float:
    for transform in f.transforms:
        match transform:
            case Log1p():
                x = _log1p(x)
            case Clip(low, high):
                x = min(max(x, low), high) if math.isfinite(x) else x
            case Scale(factor):
                x = x * factor
    return x


def _log1p(x: float) -> float:
    if x <= -1 or not math.isfinite(x):
        return -math.inf if x == -1 else math.inf if x == math.inf else math.nan
    if abs(x) < 1e-30:
        return x
    with localcontext() as context:
        context.prec = 80
        return float((1 + Decimal(x)).ln())
