"""The row engine: tables of raw rows to judged rows, the valid ones with values, the others with
their reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.base.errors import ConfigError
from jobs.rows.base.arrays import at, spread, taken, whole
from jobs.rows.base.duck import connection, forget_broken, registered
from jobs.rows.base.names import (
    DS,
    MARKS,
    RAW,
    ROW_DS,
    ROW_FILE,
    ROW_TEXT,
    SOURCE_FILE,
    SPLIT,
    mark,
)
from jobs.rows.base.types import arrow_type
from jobs.rows.judge.identity import Split, identities, row_ids_of_lines
from jobs.rows.judge.judged import REFUSED, Judged
from jobs.rows.judge.masks import image_masks, text_masks
from jobs.rows.judge.parents import is_dated
from jobs.rows.judge.statement import (
    BAD,
    INPUT,
    PLACE,
    REASONS_FOUND,
    Statement,
    is_crossed,
    key_column,
    mask_column,
    parent_table,
    passed_through,
)
from jobs.rows.judge.strict import strict
from jobs.rows.judge.values import crossed_values, dictionary, number_values, text_values
from schemas.dataset import ROW_ID, Dataset
from schemas.field import Categorical, Field, Image, Numeric
from schemas.source import Join, quoted

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_MEMORY_MB = 4_096


@dataclass(frozen=True)
class Engine:
    """A declaration's engine, to be sent to where the rows are.

    Attributes:
        dates: those asked for, as YYYY-MM-DD; none of them: all.
        parents: rows of joined sources, as `jobs.rows.judge.parents` makes them. Of a source that
            lacks, rows have the parent's columns already, see `attached`.
        split: of valid rows; None where they are not split.
        with_label: False in scoring: rules of label columns do not apply, labels are null.
    """

    dataset: Dataset
    dates: tuple[str, ...]
    parents: Mapping[str, pa.Table] = field(default_factory=dict)
    split: Split | None = None
    with_label: bool = True

    def judge(self, raw: pa.Table) -> Judged:
        """Judges rows as `jobs.rows.read` gives them [n].

        Raises:
            ConfigError: an expression of the declaration cannot be evaluated.
        """
        raw = self._with_dictionaries(raw)
        rules = self._masks(raw)
        made = self._made(raw)
        rows = made[PLACE].to_numpy()
        values, lost = self._values(raw, made, rows)
        bad = made[BAD].to_numpy().copy()
        for mask in rules.values():
            bad |= mask[rows]
        for mask in lost.values():
            bad |= mask
        later = {reason: spread(mask, rows, raw.num_rows) for reason, mask in lost.items()}
        refused = self._refused(raw, made, bad, {**rules, **later})
        valid = self._valid(raw, made, values, ~bad)
        return Judged(valid, refused, raw.num_rows - len(rows), rows[~bad], rows[bad])

    def _with_dictionaries(self, raw: pa.Table) -> pa.Table:
        """The rows with each distinct text once, where texts are looked at one by one."""
        for place, name in enumerate(raw.column_names):
            if name in self._distinct and pa.types.is_string(raw[name].type):
                raw = raw.set_column(place, name, dictionary(raw[name]))
        return raw

    @cached_property
    def _distinct(self) -> frozenset[str]:
        """Text columns that have a pattern or allowed values, or become a field as they are."""
        texts = [c for c in self.dataset.row_source.columns if c.type.strip().lower() == "string"]
        judged = {c.name for c in texts if c.pattern is not None or c.allowed is not None}
        fields = (passed_through(self.dataset, f) for f in self.dataset.fields)
        return frozenset(judged | {column.name for column in fields if column is not None})

    # Rules that SQL does not judge

    def _masks(self, raw: pa.Table) -> dict[str, Mask]:
        """By reason, the rows that have it [n]; reasons that no row has are left out."""
        masks = {reason: raw[mark(reason)].to_numpy() for reason in MARKS}
        for column in self.dataset.row_source.columns:
            if self.with_label or not column.of_label:
                of_key = column.name in self.dataset.key
                masks.update(text_masks(column, raw[column.name], of_key))
        return {reason: mask for reason, mask in masks.items() if mask.any()}

    # Parents that are too large to be sent to all

    def keys(self, raw: pa.Table, join: Join) -> pa.Table:
        """What rows are joined by: `__n`, their place in `raw`; `__ds`; `__key_0`, ... in the types
        of the parent's columns. Rows of other dates are left out.
        """
        return self._query(self._statement(raw).keys(join), self._input(raw, {})).sort_by(PLACE)

    def attached(self, raw: pa.Table, join: Join, parent: pa.Table) -> pa.Table:
        """The rows of the dates with a parent's columns, as one struct named as the source.

        Args:
            raw: rows of the parent's part of all keys.
            parent: the rows of this part, as `jobs.rows.judge.parents` makes them.
        """
        keys = self.keys(raw, join)
        on = [f"k.{key_column(n)} = p.{key_column(n)}" for n in range(len(join.on))]
        on += [f"k.{ROW_DS} = p.{ROW_DS}"] if is_dated(parent) else []
        with registered(self._duck, {"__k": keys, "__p": parent}):
            found = self._duck.sql(
                f"SELECT k.{PLACE}, p.{quoted(join.source)} AS {quoted(join.source)} "
                f"FROM __k k LEFT JOIN __p p ON {' AND '.join(on)}"
            ).to_arrow_table()
        found = found.sort_by(PLACE)
        return raw.take(found[PLACE]).append_column(join.source, found[join.source])

    # Values

    @cached_property
    def _duck(self) -> duckdb.DuckDBPyConnection:
        opened = connection(_MEMORY_MB)
        for source, rows in self.parents.items():
            opened.register("__rows", rows)
            opened.execute(f"CREATE TABLE {parent_table(source)} AS SELECT * FROM __rows")
            opened.unregister("__rows")
        return opened

    def __getstate__(self) -> dict[str, object]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def _statement(self, raw: pa.Table) -> Statement:
        native = frozenset(
            column.name
            for column in self.dataset.row_source.columns
            if raw[column.name].type == arrow_type(column.type) != pa.string()
        )
        held = set(raw.column_names)
        attached = frozenset(j.source for j in self.dataset.joins if j.source in held)
        return Statement(
            self.dataset, self.dates, self.with_label, native, attached, self._dated_parents
        )

    @cached_property
    def _dated_parents(self) -> frozenset[str]:
        return frozenset(name for name, rows in self.parents.items() if is_dated(rows))

    def _made(self, raw: pa.Table) -> pa.Table:
        """What SQL makes of the rows of the dates, in their order."""
        made = self._query(self._statement(raw).values, self._input(raw, {}))
        places = made[PLACE].to_numpy()
        if (np.diff(places) < 0).any():
            # A join turned around gives rows in the order of its parent.
            made = made.take(np.argsort(places, kind="stable"))
            places = made[PLACE].to_numpy()
        if (np.diff(places) == 0).any():
            raise AssertionError("a row was joined with more than one row of a parent")
        return made.combine_chunks()

    def _input(self, raw: pa.Table, masks: Mapping[str, Mask]) -> pa.Table:
        """Raw rows as the statements take them."""
        table = raw.drop_columns([ROW_TEXT, ROW_FILE, *map(mark, MARKS)])
        for place, name in enumerate(table.column_names):
            column = next((c for c in self.dataset.row_source.columns if c.name == name), None)
            if column is not None and pa.types.is_string(table[name].type):
                table = table.set_column(place, name, strict(table[name], column.type))
        table = table.append_column(PLACE, pa.array(np.arange(table.num_rows)))
        no = np.zeros(table.num_rows, bool)
        for number, rule in enumerate(self._statement(raw).rules):
            if rule.masked:
                mask = masks.get(rule.reason, no)
                table = table.append_column(mask_column(number), pa.array(mask))
        return table

    def _query(self, sql: str, table: pa.Table) -> pa.Table:
        try:
            return self._evaluated(sql, table)
        except duckdb.OutOfMemoryException as error:
            raise ConfigError(
                f"declaration {self.dataset.name!r}: its expressions and parents take more than "
                f"{_MEMORY_MB} MiB of memory for {table.num_rows:,} rows",
                remedy="make long texts and lists shorter, or the parent smaller",
            ) from error
        except duckdb.Error as error:
            forget_broken(error, vars(self), "_duck", "_plans")
            message = str(error).splitlines()[0]
            raise ConfigError(f"declaration {self.dataset.name!r}: {message}") from error

    def _evaluated(self, sql: str, table: pa.Table) -> pa.Table:
        with registered(self._duck, {INPUT: table}) as duck:
            return duck.sql(sql).to_arrow_table()

    def _values(
        self, raw: pa.Table, made: pa.Table, rows: Ints
    ) -> tuple[dict[str, pa.Array], dict[str, Mask]]:
        """Values of the fields by name [n], and by reason the rows that lost one [n]."""
        values: dict[str, pa.Array] = {}
        lost: dict[str, Mask] = {}
        for number, f in enumerate(self.dataset.fields):
            if is_crossed(f):
                continue
            found = self._given(raw, made, rows, number, f)
            match f:
                case Numeric():
                    values[f.name], mask = number_values(f, found)
                    lost[f"not_finite:{f.name}"] = mask
                case Categorical():
                    values[f.name] = text_values(f, found)
                case Image():
                    values[f.name] = found
                    lost.update(image_masks(f, found))
                case _:
                    values[f.name] = found
        for f in self.dataset.fields:
            if isinstance(f, Categorical) and f.crossed:
                values[f.name] = crossed_values(f, values, len(rows))
        return values, {reason: mask for reason, mask in lost.items() if mask.any()}

    def _given(self, raw: pa.Table, made: pa.Table, rows: Ints, number: int, f: Field) -> pa.Array:
        """What the field's expression gives."""
        plain = passed_through(self.dataset, f)
        if plain is None:
            return whole(made[f"__v{number}"])
        return at(raw[plain.name], rows)

    # Rows

    def _valid(
        self, raw: pa.Table, made: pa.Table, values: Mapping[str, pa.Array], good: Mask
    ) -> pa.Table:
        mask = None if good.all() else pa.array(good)
        rows = made[PLACE].to_numpy()[good]

        def kept(column: pa.Array | pa.ChunkedArray) -> pa.Array:
            return whole(column if mask is None else column.filter(mask))

        days = dictionary(kept(made[ROW_DS]))
        text = taken(raw[ROW_TEXT], rows)
        columns: dict[str, pa.Array] = {DS: days}
        key = [kept(made[name]) for name in self.dataset.key]
        same = identities(days, key or [text])
        if self.split is not None:
            entity = [kept(made[name]) for name in self.dataset.entity_columns]
            columns[SPLIT] = self.split.of(entity or [text])
        if self.dataset.key:
            columns[ROW_ID] = pa.array(same)
            columns[RAW] = whole(text)
            columns[SOURCE_FILE] = at(raw[ROW_FILE], rows)
        else:
            columns[ROW_ID] = pa.array(row_ids_of_lines(same, np.ones(len(same), np.int32)))
        columns |= dict(zip(self.dataset.key, key, strict=True))
        columns |= {f.name: kept(values[f.name]) for f in self.dataset.fields}
        return pa.table(columns)

    def _refused(
        self, raw: pa.Table, made: pa.Table, bad: Mask, masks: Mapping[str, Mask]
    ) -> pa.Table:
        """Rows with their reasons, which are worked out for these rows alone."""
        if not bad.any():
            return REFUSED.empty_table()
        few = raw.take(rows := made[PLACE].to_numpy()[bad])
        asked = self._input(few, {reason: mask[rows] for reason, mask in masks.items()})
        found = self._query(self._statement(few).reasons, asked).sort_by(PLACE)
        assert pc.min(pc.list_value_length(found[REASONS_FOUND])).as_py(), "refused for no reason"
        days = made[ROW_DS].filter(pa.array(bad))
        columns = [whole(c) for c in (found[REASONS_FOUND], few[ROW_TEXT], few[ROW_FILE], days)]
        typed = [c.cast(f.type) for c, f in zip(columns, REFUSED, strict=True)]
        return pa.table(typed, schema=REFUSED)
