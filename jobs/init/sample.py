"""A bounded sample of a file, and what each column holds in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from jobs.base.errors import DataRefused
from jobs.init.layout import FileLayout
from jobs.rows.base.duck import registered, shared_connection
from jobs.rows.judge.casts import cast
from jobs.rows.judge.strict import strict

# Enough to tell types and ranges by; a file may have a billion rows.
SAMPLE_ROWS = 100_000
_SAMPLE_BYTES = 256 << 20
_BLOCK_BYTES = 4 << 20
_MOST_MALFORMED = 0.05
_MOST_UNLIKE = 0.01
_NULL_TEXTS = ("NA", "N/A", "NULL", "null", "None", "NaN", "nan", r"\N", "?", "-")
_COMMON = 20

Texts: TypeAlias = Any  # pa.ChunkedArray of strings
# Of the texts that the row engine takes for the types a little less: an id or a postal code with
# leading zeros is a text, and 1/0 are numbers.
_KINDS = {
    "boolean": r"(?i)^ *(true|false|t|f|yes|no|y|n) *$",
    "bigint": r"^ *[-+]?(0|[1-9]\d{0,17}) *$",
    "double": r"^ *[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})? *$",
    "date": r"^ *\d{4}-\d{1,2}-\d{1,2} *$",
    "timestamp": r"^ *\d{4}-\d{1,2}-\d{1,2}[ T]\d",
}


@dataclass(frozen=True)
class Profile:
    """What a column holds in the sample.

    Attributes:
        name: in the header.
        type: of the declaration: boolean, bigint, double, date, timestamp or string.
        rows, nulls: rows of the sample, and those without a value.
        unlike, example: values that are not of the type, few enough to be mistakes, and one of
            them. What follows is about the others.
        distinct: number of different values.
        low, median, high: of numbers; None for other types.
        common: the most frequent values, with their rows.
        first, last: in the texts' order.
        mean_characters: of a value.
        spread: standard deviation of numbers.
    """

    name: str
    type: str
    rows: int
    nulls: int
    distinct: int
    common: tuple[tuple[str, int], ...]
    first: str = ""
    last: str = ""
    mean_characters: float = 0.0
    low: float | None = None
    median: float | None = None
    high: float | None = None
    spread: float = 0.0
    unlike: int = 0
    example: str = ""

    @property
    def values(self) -> int:
        return self.rows - self.nulls - self.unlike

    @property
    def is_number(self) -> bool:
        return self.type in ("bigint", "double")


@dataclass(frozen=True)
class Sample:
    """The file's first rows.

    Attributes:
        null_value: the text that stands for a missing value, besides none at all.
        whole: whether that is the whole file.
    """

    layout: FileLayout
    table: Any
    columns: tuple[Profile, ...]
    null_value: str
    whole: bool

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> Profile:
        return next(column for column in self.columns if column.name == name)


def sample_of(path: Path, layout: FileLayout) -> Sample:
    """Reads the file's first rows, as texts.

    Raises:
        DataRefused: there is no row, or many rows have too many or too few fields.
    """
    table, whole = _read(path, layout)
    null_value = _null_value(table)
    columns = tuple(_profile(name, table[name], null_value) for name in layout.names)
    return Sample(layout, table, columns, null_value, whole)


def _read(path: Path, layout: FileLayout) -> tuple[Any, bool]:
    malformed = 0

    def skip(_: Any) -> str:
        nonlocal malformed
        malformed += 1
        return "skip"

    read = pa.csv.ReadOptions(
        column_names=list(layout.names),
        skip_rows=1,
        block_size=_BLOCK_BYTES,
        encoding=layout.encoding,
        use_threads=False,
    )
    parse = pa.csv.ParseOptions(delimiter=layout.delimiter, invalid_row_handler=skip)
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(layout.names, pa.string()), strings_can_be_null=False
    )
    batches, rows, size, whole = [], 0, 0, True
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            for batch in pa.csv.open_csv(stream, read, parse, convert):
                batches.append(batch)
                rows, size = rows + batch.num_rows, size + batch.nbytes
                if rows >= SAMPLE_ROWS or size >= _SAMPLE_BYTES:
                    whole = False
                    break
    except (pa.ArrowInvalid, OSError) as error:
        raise DataRefused(
            f"{path} cannot be read as text in {layout.encoding}: {error}", "a whole file"
        ) from error
    if malformed > _MOST_MALFORMED * (rows + malformed) or not rows:
        raise DataRefused(
            f"{path}: {malformed:,} of {rows + malformed:,} rows have not {len(layout.names)} "
            "fields, as the header has",
            "rows of one length; values with a delimiter in quotes, and no line break in a value",
        )
    return pa.Table.from_batches(batches).slice(0, SAMPLE_ROWS), whole


def _null_value(table: Any) -> str:
    """The one of the usual texts for a missing value that most values are."""
    counts = dict.fromkeys(_NULL_TEXTS, 0)
    for column in table.columns:
        found = pc.value_counts(column.filter(pc.is_in(column, pa.array(_NULL_TEXTS))))
        for one in found.to_pylist():
            counts[one["values"]] += one["counts"]
    best = max(_NULL_TEXTS, key=lambda text: counts[text])
    return best if counts[best] else ""


def _profile(name: str, column: Texts, null_value: str) -> Profile:
    nulls = pc.is_in(column, pa.array(["", null_value]))
    given = column.filter(pc.invert(nulls))
    kind, values = _typed(given)
    counts = sorted(
        ((one["values"], one["counts"]) for one in pc.value_counts(values).to_pylist()),
        key=lambda pair: (-pair[1], pair[0]),
    )
    texts = [text for text, _ in counts]
    unlike = given.filter(pc.invert(_matches(given, kind))) if kind != "string" else given[:0]
    return Profile(
        name=name,
        type=kind,
        rows=len(column),
        nulls=len(column) - len(given),
        distinct=len(counts),
        common=tuple(counts[:_COMMON]),
        first=min(texts, default=""),
        last=max(texts, default=""),
        mean_characters=pc.mean(pc.utf8_length(values)).as_py() or 0.0,
        unlike=len(unlike),
        example=unlike[0].as_py() if len(unlike) else "",
        **(_numbers(values) if kind in ("bigint", "double") else {}),
    )


def _numbers(values: Texts) -> dict[str, float]:
    numbers = read_as(values, "double")
    bounds = pc.min_max(numbers).as_py()
    return {
        "low": bounds["min"],
        "high": bounds["max"],
        "median": pc.quantile(numbers, 0.5)[0].as_py(),
        "spread": pc.stddev(numbers).as_py(),
    }


def _typed(values: Texts) -> tuple[str, Texts]:
    """The narrowest type that nearly all values are of, and those; else they are strings."""
    fitting = {kind: _matches(values, kind) for kind in _KINDS} if len(values) else {}
    for most_unlike in (0.0, _MOST_UNLIKE):
        for kind, found in fitting.items():
            if pc.mean(found).as_py() >= 1 - most_unlike:
                return kind, values.filter(found)
    return "string", values


def _matches(values: Texts, kind: str) -> Any:
    found = pc.match_substring_regex(values, _KINDS[kind])
    if pc.mean(found).as_py() < 1 - _MOST_UNLIKE:
        return found
    return pc.and_(found, read_as(values, kind).is_valid())


def read_as(texts: Texts, kind: str) -> Any:
    """The values that the row engine makes of texts [n]; null of a text that is none."""
    table = pa.table({"text": strict(texts, kind)})
    with registered(shared_connection(), {"__texts": table}) as duck:
        return duck.sql(f"SELECT {cast('text', kind, False)} AS v FROM __texts").to_arrow_table()[
            "v"
        ]
