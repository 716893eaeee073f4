"""Plain lines: those of delimited text that Arrow can parse and find valid beyond doubt.

Most lines of most days are: no quotes, as many fields as declared, each one a number or a text as
the rules want it. A Python worker takes such lines by the ten thousand, at a fifth of what judging
each by Spark's expressions costs. It decides nothing else: any other line is *odd* and goes to
`jobs.etl.validate`, which alone gives reasons. So what is plain must have, to the bit, the values
that Spark's expressions give and no reason against it; the tests compare the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from jobs.etl.lines import BYTE_ORDER_MARK
from jobs.etl.plain_rules import Mask, broken_rules, knows, type_of
from jobs.etl.plain_values import floats, number_values
from schemas.dataset import Column, Dataset
from schemas.field import Carried, Categorical, Clip, Field, Label, Log1p, Numeric, Scale, Weight

# Digits that any of the types takes; others are left to Spark.
_WHOLE, _DECIMAL = r"^-?[0-9]{1,18}$", r"^-?[0-9]{1,15}(\.[0-9]{1,15})?$"
# Arrow reads whole numbers in base 16, too.
_BASE_16 = r"0[xX]"
_NAME, _LITERALS = re.compile(r"[A-Za-z_]\w*", re.ASCII), ("null", "true", "false")
_BLOCK_BYTES = 1 << 20


def plain_lane(dataset: Dataset, with_label: bool) -> PlainLane | None:
    """The lane of a declaration; None where its rows need Spark's expressions.

    These are rows with a key, with parents, with a date of their own, and fields that are more
    than a column of the file, but for logarithms, limits and factors of numbers.
    """
    source = dataset.row_source
    whole = dataset.key or dataset.entity or dataset.joins or dataset.ds is not None
    if whole or source.format != "csv" or len(source.delimiter.encode()) != 1:
        return None
    lane = PlainLane(dataset, with_label)
    return lane if lane.covers() else None


@dataclass(frozen=True)
class PlainLane:
    """Lines to rows, and which lines are odd."""

    dataset: Dataset
    with_label: bool

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        return {column.name: column for column in self.dataset.row_source.columns}

    def covers(self) -> bool:
        return all(map(knows, self.columns.values())) and all(map(self._makes, self.dataset.fields))

    def _judges(self, column: Column) -> bool:
        return self.with_label or not column.of_label

    def _makes(self, f: Field) -> bool:
        column = self.columns.get(f.expr or f.name)
        # To Spark's SQL `null` is no column, and neither is `5`.
        if column is None or not _NAME.fullmatch(column.name) or column.name.lower() in _LITERALS:
            return False
        type_ = type_of(column)
        number = type_ is not None and type_ != pa.string()
        if number and not self._judges(column):
            # Of these it is not known whether they are numbers.
            return isinstance(f, Label)
        match f:
            case Numeric():
                return number and all(isinstance(t, Log1p | Clip | Scale) for t in f.transforms)
            case Label() | Weight():
                return number and (not isinstance(f, Label) or f.task != "multiclass")
            case Carried():
                return type_ == pa.string() and f.type.strip().lower() == "string"
            case Categorical():
                return type(f) is Categorical and type_ == pa.string() and not f.transforms
            case _:
                return False

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Of the fields' values."""
        return {
            f.name: pa.string() if isinstance(f, Categorical | Carried) else pa.float32()
            for f in self.dataset.fields
        }

    def __call__(self, lines: pa.StringArray) -> tuple[dict[str, pa.Array], Mask]:
        """The fields' values of the plain lines, and which of the lines [n] are odd.

        Args:
            lines: valid UTF-8.
        """
        odd = self._strange(lines)
        parsed, odd = self._parsed(lines, odd)
        wrong = np.zeros(parsed.num_rows, bool)
        for column in self.columns.values():
            if self._judges(column):
                wrong |= broken_rules(column, parsed[column.name])
        values = {}
        for f in self.dataset.fields:
            values[f.name], lost = self._value(f, parsed)
            wrong |= lost
        if wrong.any():
            sound = pa.array(~wrong)
            values = {name: value.filter(sound) for name, value in values.items()}
            odd[np.flatnonzero(~odd)[wrong]] = True
        return values, odd

    def _strange(self, lines: pa.StringArray) -> Mask:
        """Lines with what Spark's parser and Arrow's take differently."""
        odd = np.zeros(len(lines), bool)
        source = self.dataset.row_source
        content = lines.buffers()[2]
        found = content.to_pybytes() if content is not None else b""
        for mark in {source.quote.encode(), b"\0"} - {b""}:
            if mark in found:
                odd |= np.asarray(pc.match_substring(lines, mark.decode()))
        mark = BYTE_ORDER_MARK.encode()
        # One byte is found ten times as fast as three are.
        if mark[:1] in found and mark in found:
            odd |= np.asarray(pc.starts_with(lines, BYTE_ORDER_MARK))
        if b"x" in found or b"X" in found:
            start = f"(^|{re.escape(source.delimiter)})"
            odd |= np.asarray(pc.match_substring_regex(lines, rf"{start}[ \t-]*{_BASE_16}"))
        return odd

    def _parsed(self, lines: pa.StringArray, odd: Mask) -> tuple[pa.Table, Mask]:
        """The columns of the lines that are not odd, and which lines are now."""
        try:
            return self._read(lines, odd, typed=True)
        except pa.ArrowInvalid:
            # A text is no number: to find the line, all are read as texts.
            table, odd = self._read(lines, odd, typed=False)
        good = np.ones(table.num_rows, bool)
        for name, type_ in self._numbers.items():
            whole = pa.types.is_integer(type_)
            like = pc.match_substring_regex(table[name], _WHOLE if whole else _DECIMAL)
            good &= np.asarray(like.fill_null(True))
        table = table.filter(pa.array(good))
        odd[np.flatnonzero(~odd)[~good]] = True
        good = np.ones(table.num_rows, bool)
        for name, type_ in self._numbers.items():
            wide = table[name].cast(pa.float64()).to_numpy()
            if pa.types.is_integer(type_):
                limits = np.iinfo(type_.to_pandas_dtype())
                # Null is NaN, which is within no limits and beyond none.
                good &= ~((wide < limits.min) | (wide > limits.max))
        table = table.filter(pa.array(good))
        odd[np.flatnonzero(~odd)[~good]] = True
        for name, type_ in self._numbers.items():
            place = table.column_names.index(name)
            table = table.set_column(place, name, table[name].cast(type_))
        return table, odd

    @cached_property
    def _numbers(self) -> dict[str, pa.DataType]:
        """Types of the columns that must be numbers."""
        judged = {name: type_of(c) for name, c in self.columns.items() if self._judges(c)}
        return {name: type_ for name, type_ in judged.items() if type_ != pa.string()}

    def _read(self, lines: pa.StringArray, odd: Mask, typed: bool) -> tuple[pa.Table, Mask]:
        odd = odd.copy()
        rows = lines.filter(pa.array(~odd)) if odd.any() else lines
        places = np.flatnonzero(~odd)
        wrong: list[int] = []

        def note(row: csv.InvalidRow) -> str:
            wrong.append(row.number - 1)
            return "skip"

        names = list(self.columns)
        if not len(rows):
            types = {name: type_of(self.columns[name]) for name in names}
            return pa.schema(types.items()).empty_table(), odd
        content = _joined(rows)
        # Blocks that fit into the processor's cache are parsed a third faster; no line is longer.
        block_bytes = max(_BLOCK_BYTES, 2 * pc.max(pc.binary_length(rows)).as_py() + 2)
        types = dict.fromkeys(names, pa.string())
        if typed:
            types |= self._numbers
        table = csv.read_csv(
            pa.BufferReader(content),
            csv.ReadOptions(use_threads=False, block_size=block_bytes, column_names=names),
            csv.ParseOptions(
                delimiter=self.dataset.row_source.delimiter,
                quote_char=False,
                double_quote=False,
                newlines_in_values=False,
                ignore_empty_lines=False,
                invalid_row_handler=note,
            ),
            csv.ConvertOptions(
                check_utf8=False,
                column_types=types,
                null_values=sorted({"", self.dataset.row_source.null_value}),
                strings_can_be_null=True,
            ),
        )
        odd[places[wrong]] = True
        return table, odd

    def _value(self, f: Field, parsed: pa.Table) -> tuple[pa.Array, Mask | bool]:
        """The values of a field, and where a row is no valid one for them."""
        column = self.columns[f.expr or f.name]
        found = parsed[column.name].combine_chunks()
        match f:
            case Numeric():
                return number_values(f, found)
            case Label() if not self.with_label:
                return pa.nulls(len(found), pa.float32()), False
            case Label() | Weight():
                # From the column's own type in one step, as Spark does it.
                value = floats(found.fill_null(0).to_numpy(zero_copy_only=False))
                lost = ~np.isfinite(value) | np.asarray(found.is_null())
                if isinstance(f, Weight):
                    lost |= value <= 0
                return pa.array(value), lost
            case _:
                return found, False


def _joined(lines: pa.StringArray) -> pa.Buffer:
    whole = pa.ListArray.from_arrays(pa.array([0, len(lines)], pa.int32()), lines)
    return pc.binary_join(whole, "\n")[0].as_buffer()


def plain_batches(
    lane: PlainLane, tables: Iterable[pa.Table], lines: str, odd: str
) -> Iterator[tuple[dict[str, pa.Array], pa.Table, pa.Table]]:
    """Of each table the plain rows' values, the plain rows and the odd rows.

    Args:
        lines: the column of the texts.
        odd: the column that says which rows are odd already.
    """
    for table in tables:
        apart = np.asarray(table[odd])
        rest = table.filter(pa.array(~apart)) if apart.any() else table
        values, found = lane(rest[lines].combine_chunks())
        strange = pa.array(found)
        odd_rows = [table.filter(pa.array(apart)), rest.filter(strange)]
        plain = rest.filter(pc.invert(strange)) if found.any() else rest
        yield values, plain, pa.concat_tables(odd_rows)
