"""A declaration as SQL: one statement for values and a flag of broken rules, one for the reasons.

Both are the same nest of selects over a table of raw rows, `__in`: casts, the date, parents joined,
expressions, casts by the kinds of fields. What SQL does not judge (patterns, images, numbers that a
transform loses) comes as columns of booleans, `__m0`, `__m1`, ...
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from jobs.rows.base.names import MARKS, ROW_DS, UNDATED, UNREAD, mark
from jobs.rows.judge.casts import cast, cast_of_field, is_whole, moment_in_time
from jobs.rows.judge.rules import Rule, base_column, rules_of, text_literal, value_column
from schemas.dataset import Dataset
from schemas.field import Carried, Categorical, Field, Label
from schemas.hashed import Bucketized
from schemas.source import Column, Join, Source, duckdb_type, quoted

INPUT, PLACE, BAD, REASONS_FOUND = "__in", "__n", "__bad", "__reasons"


@dataclass(frozen=True)
class Statement:
    """The SQL of a declaration.

    Attributes:
        dates: rows of other dates are left out, unless none is named.
        with_label: False leaves columns known only with the label unjudged, and labels null.
        as_declared: columns that `__in` has in their declared types, not as texts.
        attached: parents whose columns `__in` has already, each as one struct.
        dated: parents whose rows are of one date each; of another date's a row knows nothing.
    """

    dataset: Dataset
    dates: tuple[str, ...]
    with_label: bool
    as_declared: frozenset[str] = frozenset()
    attached: frozenset[str] = frozenset()
    dated: frozenset[str] = frozenset()

    # What is asked for

    @property
    def values(self) -> str:
        """`__n`, `__ds`, key and entity columns, fields' values by place, and `__bad`."""
        columns = [quoted(PLACE), quoted(ROW_DS)]
        columns += [quoted(name) for name in self.kept_columns]
        columns += [value_column(number) for number, f in self._by_sql]
        conditions = [rule.condition for rule in self.rules if not rule.masked]
        broken = " OR ".join(f"coalesce({condition}, false)" for condition in conditions)
        columns.append(f"({broken or 'false'}) AS {BAD}")
        return f"SELECT {', '.join(columns)} FROM ({self._valued})"

    @property
    def reasons(self) -> str:
        """`__n` and the list of reasons of each row of `__in`."""
        found = ", ".join(
            f"CASE WHEN {self._masks(number, rule)} THEN {text_literal(rule.reason)} END"
            for number, rule in enumerate(self.rules)
        )
        lists = f"list_filter([{found}], lambda reason : reason IS NOT NULL)"
        return f"SELECT {PLACE}, {lists} AS {REASONS_FOUND} FROM ({self._valued})"

    def _masks(self, number: int, rule: Rule) -> str:
        condition = mask_column(number) if rule.masked else rule.condition
        of_reading = rule.reason in (*MARKS, UNDATED)
        return condition if of_reading else f"NOT {UNREAD} AND ({condition})"

    @cached_property
    def kept_columns(self) -> list[str]:
        """Raw columns that identify and split the rows."""
        return list(dict.fromkeys([*self.dataset.key, *self.dataset.entity_columns]))

    # Rules

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """All reasons that a row can be refused for, in the declaration's order."""
        return rules_of(self.dataset, self.with_label)

    # The nest of selects

    @cached_property
    def _by_sql(self) -> list[tuple[int, Field]]:
        """Fields whose values SQL makes, with their places."""
        return [
            (number, f)
            for number, f in enumerate(self.dataset.fields)
            if not is_crossed(f) and passed_through(self.dataset, f) is None
        ]

    @property
    def _typed(self) -> str:
        columns = [PLACE, UNREAD]
        for place, column in enumerate(self.dataset.row_source.columns):
            name = quoted(column.name)
            columns += [
                f"{self._cast(column)} AS {name}",
                f"{INPUT}.{name} IS NOT NULL AS __given_{place}",
            ]
        numbers = [n for n, rule in enumerate(self.rules) if rule.masked]
        columns += [mask_column(number) for number in numbers]
        if self.dataset.ds is None:
            columns.append(ROW_DS)
        columns += [quoted(j.source) for j in self.dataset.joins if j.source in self.attached]
        return f"SELECT {', '.join(columns)} FROM {INPUT}"

    def _cast(self, column: Column) -> str:
        name = f"{INPUT}.{quoted(column.name)}"
        return cast(name, column.type, column.name in self.as_declared)

    @property
    def _dated(self) -> str:
        days = ", ".join(f"'{ds}'" for ds in (*self.dates, UNDATED))
        found = f"SELECT * FROM ({self._typed})"
        if self.dataset.ds is not None:
            date = f"CAST(CAST(TRY({moment_in_time(self.dataset.ds)}) AS DATE) AS VARCHAR)"
            found = f"SELECT *, coalesce({date}, '{UNDATED}') AS {ROW_DS} FROM ({self._typed})"
        return f"SELECT * FROM ({found}) WHERE {ROW_DS} IN ({days})" if self.dates else found

    @property
    def _joined(self) -> str:
        joins = [j for j in self.dataset.joins if j.source not in self.attached]
        if not joins:
            return self._dated
        keys, tables = [], []
        for number, join in enumerate(joins):
            parent, on = parent_table(join.source), []
            for place in range(len(join.on)):
                keys.append(f"{self._key(join, place)} AS __on_{number}_{place}")
                on.append(f"__r.__on_{number}_{place} = {parent}.{key_column(place)}")
            if join.source in self.dated:
                on.append(f"__r.{ROW_DS} = {parent}.{ROW_DS}")
            tables.append(f"LEFT JOIN {parent} ON {' AND '.join(on)}")
        parents = ", ".join(f"{parent_table(j.source)}.{quoted(j.source)}" for j in joins)
        rows = f"SELECT *, {', '.join(keys)} FROM ({self._dated})"
        return f"SELECT __r.*, {parents} FROM ({rows}) __r {' '.join(tables)}"

    def keys(self, join: Join) -> str:
        """`__n`, `__ds` and what the rows are joined by with a parent, in its columns' types."""
        keys = [f"{self._key(join, n)} AS {key_column(n)}" for n in range(len(join.on))]
        return f"SELECT {PLACE}, {ROW_DS}, {', '.join(keys)} FROM ({self._dated})"

    def _key(self, join: Join, place: int) -> str:
        """A part of what rows are joined by, in the type of the parent's column; null where it has
        no such value."""
        ours, theirs = join.on[place]
        columns = {column.name: column for column in self.dataset.source(join.source).columns}
        key = f"TRY_CAST(TRY({ours}) AS {duckdb_type(columns[theirs].type)})"
        if duckdb_type(columns[theirs].type) in ("FLOAT", "DOUBLE"):
            # 0.0 and -0.0 are one key.
            return f"{key} + 0"
        # 1.5 is no key among whole numbers, though a cast would round it to one.
        plain = plain_column(self.dataset, Field(ours))
        whole = is_whole(columns[theirs]) and not (plain is not None and is_whole(plain))
        return f"CASE WHEN {key} = TRY_CAST(TRY({ours}) AS DOUBLE) THEN {key} END" if whole else key

    @property
    def _valued(self) -> str:
        bases, values = ["*"], ["*"]
        for number, f in self._by_sql:
            bases.append(f"{self._base_of(f)} AS {base_column(number)}")
            values.append(f"{cast_of_field(f, base_column(number))} AS {value_column(number)}")
        inner = f"SELECT {', '.join(bases)} FROM ({self._joined})"
        return f"SELECT {', '.join(values)} FROM ({inner})"

    def _base_of(self, f: Field) -> str:
        if isinstance(f, Label) and not self.with_label:
            return "NULL"
        plain = plain_column(self.dataset, f)
        # What an expression cannot make of a row is null; a rule may then name it.
        return quoted(plain.name) if plain is not None else f"TRY({f.sql})"


def mask_column(number: int) -> str:
    """The column that says where the rule of this number is broken, by other means than SQL."""
    return f"__m{number}"


def key_column(place: int) -> str:
    """The column of a parent's table that a join's part of this place compares with."""
    return f"__key_{place}"


def parent_table(source: str) -> str:
    return quoted(f"__parent_{source}")


def is_crossed(f: Field) -> bool:
    return isinstance(f, Categorical) and bool(f.crossed)


def plain_column(dataset: Dataset, f: Field) -> Column | None:
    """The raw column that a field is; None where an expression makes it."""
    name = f.expr or f.name
    return next((column for column in dataset.row_source.columns if column.name == name), None)


def passed_through(dataset: Dataset, f: Field) -> Column | None:
    """The text column that a field is: it need not go through SQL."""
    plain = plain_column(dataset, f)
    if plain is None or plain.type.strip().lower() != "string" or isinstance(f, Bucketized):
        return None
    if isinstance(f, Carried):
        return plain if f.type.strip().lower() == "string" else None
    return plain if isinstance(f, Categorical) else None


def source_statement(source: Source, as_declared: Collection[str]) -> str:
    """SQL of a source by itself: typed columns, and the reasons against a row as a list.

    Of rules only those of texts: a value that does not parse, and one that is missing.
    """
    columns, reasons = [PLACE], [(mark(reason), reason) for reason in MARKS]
    for column in source.columns:
        name = f"{INPUT}.{quoted(column.name)}"
        value = cast(name, column.type, column.name in as_declared)
        columns.append(f"{value} AS {quoted(column.name)}")
        reasons.append((f"{name} IS NOT NULL AND {value} IS NULL", f"unparsable:{column.name}"))
        if not column.nullable:
            reasons.append((f"{name} IS NULL", f"null:{column.name}"))
    cases = (f"CASE WHEN {when} THEN {text_literal(reason)} END" for when, reason in reasons)
    found = ", ".join(cases)
    lists = f"list_filter([{found}], lambda reason : reason IS NOT NULL)"
    return f"SELECT {', '.join(columns)}, {lists} AS {REASONS_FOUND} FROM {INPUT}"
