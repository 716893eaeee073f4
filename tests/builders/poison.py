"""Raw files with a known number of each defect, in each format."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq

from schemas.dataset import Dataset, Join
from tests.builders.visits import HEADER, VISITS

DAY = "2024-01-01"
COLUMNS = HEADER.split(",")
Row = dict[str, Any]


def poisoned(format_: Any) -> Dataset:
    """`visits` with raw files of a format, and a shop that must be known."""
    visits, shops = VISITS.sources
    joins = (Join("shops", on=(("shop", "shop"),), required=True),)
    return replace(VISITS, sources=(replace(visits, format=format_), shops), joins=joins)


POISON_CSV, POISON_JSON = poisoned("csv"), poisoned("json")
POISON_PARQUET, POISON_ORC = poisoned("parquet"), poisoned("orc")

SOUND_ROWS = 40
# What is wrong in place of a sound value, and the reasons that it must be refused for.
_DEFECTS: tuple[tuple[Row, tuple[str, ...]], ...] = (
    ({"amount": "many"}, ("unparsable:amount",)),
    ({"amount": "1e400"}, ("unparsable:amount",)),
    ({"age": 5_000_000_000}, ("unparsable:age",)),
    ({"age": 130}, ("above_max:age",)),
    ({"age": -1}, ("below_min:age",)),
    ({"bought": 2}, ("not_allowed:bought",)),
    ({"bought": None}, ("label_absent",)),
    ({"visit": None}, ("null:visit",)),
    ({"shop": "A?"}, ("no_parent:shops", "pattern:shop")),
    ({"shop": "z"}, ("no_parent:shops",)),
    ({"amount": "-1.0"}, ("not_finite:amount_log",)),
    ({"day": "yesterday"}, ("undated", "unparsable:day")),
    ({"age": 999, "bought": 7}, ("above_max:age", "not_allowed:bought")),
    ({"visit": 1}, ("duplicate_key",)),
)


def _sound(visit: int) -> Row:
    return {
        "day": DAY,
        "visit": visit,
        "shop": "abcd"[visit % 4],
        "amount": f"{visit % 17}.5",
        "age": 20 + visit % 50,
        "bought": visit % 2,
    }


def _rows() -> Iterator[tuple[Row, tuple[str, ...]]]:
    """Sound rows, then each defect a different number of times."""
    for visit in range(1, SOUND_ROWS + 1):
        yield _sound(visit), ()
    visit = 1000
    for number, (defect, reasons) in enumerate(_DEFECTS):
        for _ in range(1 + number % 3):
            visit += 1
            yield {**_sound(visit), **defect}, reasons


# Lines as bytes, and their reasons.
_BAD_CSV = (
    (f"{DAY},901,a,1.0,30,1,surplus".encode(), ("malformed",)),
    # Beyond any line's number of fields, it is not taken apart, so its date is not known.
    (f"{DAY},902,a,1.0,30,1,".encode() + b"," * 30_000, ("malformed", "undated")),
    (f"{DAY},903,a,1.0,30".encode(), ("label_absent", "malformed")),
    (
        f"{DAY},904,a,1.0,30,1 \xff\xfe".encode("latin-1"),
        ("encoding", "label_absent", "unparsable:bought"),
    ),
    (
        f"{DAY},905,caf\xe9,1.0,30,1".encode("latin-1"),
        ("encoding", "no_parent:shops", "pattern:shop"),
    ),
)
_START = f'{{"day":"{DAY}","visit":'
_REST = '"shop":"a","amount":1.0,"age":30,"bought":1'
# Of a line that is not read nothing is known but that.
_NO_OBJECT = ("malformed", "undated")
_BAD_JSON = (
    (f"{_START}901,{_REST}".encode(), _NO_OBJECT),
    (f"[{_START}902,{_REST}}}]".encode(), _NO_OBJECT),
    (f"{_START}903,{_REST}}}{_START}904,{_REST}}}".encode(), _NO_OBJECT),
    (f"{_START}905,{_REST}}},{_START}906,{_REST}}}".encode(), _NO_OBJECT),
    (b"17", _NO_OBJECT),
    (f'{_START}907,{_REST},"x":"\xff"}}'.encode("latin-1"), ("encoding", "undated")),
    (f'{_START}908,{_REST},"x":"\\ud800"}}'.encode(), ("encoding", "undated")),
)


def _csv_line(row: Row) -> bytes:
    return ",".join("NA" if row[name] is None else str(row[name]) for name in COLUMNS).encode()


def _json_line(row: Row) -> bytes:
    return json.dumps({name: value for name, value in row.items() if value is not None}).encode()


def write_poison(path: Path, format_: str) -> Counter[tuple[str, ...]]:
    """Writes a poison file; returns the number of its rows by their reasons, () for sound ones."""
    rows = list(_rows())
    expected = Counter(reasons for _, reasons in rows)
    if format_ in ("parquet", "orc"):
        # A shop of bytes that are no text; a column of text where a number is declared.
        bad: Row = {**_sound(905), "shop": b"caf\xe9"}
        expected["encoding", "no_parent:shops"] += 1
        _write_columns(path, [*(row for row, _ in rows), bad], format_)
        return expected
    render, bad_lines = (_csv_line, _BAD_CSV) if format_ == "csv" else (_json_line, _BAD_JSON)
    lines = [*(render(row) for row, _ in rows), *(line for line, _ in bad_lines)]
    expected.update(reasons for _, reasons in bad_lines)
    header = [HEADER.encode()] if format_ == "csv" else []
    path.write_bytes(b"\n".join([*header, *lines]) + b"\n")
    return expected


def _write_columns(path: Path, rows: Sequence[Row], format_: str) -> None:
    table = pa.table(
        {
            "day": pa.array([row["day"] for row in rows], pa.string()),
            "visit": pa.array([row["visit"] for row in rows], pa.int32()),
            "shop": _texts([row["shop"] for row in rows]),
            "amount": pa.array([row["amount"] for row in rows], pa.string()),
            "age": pa.array([row["age"] for row in rows], pa.int64()),
            "bought": pa.array([row["bought"] for row in rows], pa.int32()),
        }
    )
    (pq.write_table if format_ == "parquet" else orc.write_table)(table, path)


def _texts(values: Sequence[str | bytes]) -> pa.Array:
    """A column of texts, valid or not."""
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return pa.array(encoded, pa.binary()).view(pa.string())
