"""Raw files read and judged by the engine alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.rows.base.names import DS, ENCODING, MALFORMED, REASONS, REPEATED_HEADER, mark
from jobs.rows.judge.engine import Engine
from jobs.rows.judge.judged import Judged
from jobs.rows.judge.parents import parent_rows
from jobs.rows.read.files import RawFile, find_files
from jobs.rows.read.pieces import cut, read_rows
from schemas.dataset import Column, Dataset, Source
from schemas.field import Field, Label, Numeric

WHOLE = 1 << 40
ONE = Numeric("one", "1")
THINGS = Source(
    "things",
    columns=(Column("id", "bigint", nullable=False), Column("name", "string")),
    null_value="NA",
)


def declared(*columns: Column, fields: tuple[Field, ...] = (), **more: Any) -> Dataset:
    """A declaration of one source named `rows`, with a label of 1 where none is given."""
    source = Source("rows", columns, header=more.pop("header", False))
    sources = (source, *more.pop("parents", ()))
    label = () if any(isinstance(f, Label) for f in fields) else (Label("y", "1"),)
    return Dataset("some", sources, "rows", more.pop("key", ()), (*label, *fields), **more)


def files_of(path: object, *dates: str) -> list[RawFile]:
    return find_files(str(path), dates)


def raw_rows(source: Source, files: Sequence[RawFile], piece_bytes: int = WHOLE) -> pa.Table:
    """The rows of files, as texts."""
    tables = list(read_rows(cut(files, source, piece_bytes), source))
    return pa.concat_tables(tables, promote_options="default") if tables else pa.table({})


def marks_of(raw: pa.Table) -> list[str]:
    """What reading found against each row, in words."""
    found = (ENCODING, MALFORMED, REPEATED_HEADER)
    columns = {reason: raw[mark(reason)].to_pylist() for reason in found}
    return [
        ",".join(reason for reason in found if columns[reason][row]) for row in range(raw.num_rows)
    ]


def judged(
    dataset: Dataset,
    path: object,
    *dates: str,
    piece_bytes: int = WHOLE,
    parents: Mapping[str, object] | None = None,
    **more: Any,
) -> Judged:
    """All rows of the files, judged; those of no date are of the date "" that has none."""
    engine = Engine(
        dataset,
        dates or ("",),
        {
            join.source: parent_rows(
                files_of((parents or {})[join.source], *dates), dataset.source(join.source), join
            )
            for join in dataset.joins
        },
        **more,
    )
    return judged_files(engine, files_of(path, *dates), piece_bytes)


def judged_files(engine: Engine, files: Sequence[RawFile], piece_bytes: int = WHOLE) -> Judged:
    source = engine.dataset.row_source
    pieces = cut(files, source, piece_bytes, engine.with_label)
    found = [engine.judge(raw) for raw in read_rows(pieces, source)]
    if not found:
        return Judged(pa.table({}), pa.table({}), 0)
    return Judged(
        _together([one.valid for one in found]),
        _together([one.refused for one in found]),
        sum(one.others for one in found),
    )


def _together(tables: Sequence[pa.Table]) -> pa.Table:
    # Dictionaries differ from table to table.
    return pa.concat_tables([_plain(table) for table in tables])


def _plain(table: pa.Table) -> pa.Table:
    for place, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            table = table.set_column(
                place, column.name, table[column.name].cast(column.type.value_type)
            )
    return table


def reasons_of(found: Judged) -> dict[str, list[str]]:
    """By text, the reasons against the refused rows."""
    return {row["raw"]: row[REASONS] for row in found.refused.to_pylist()}


def values_of(found: Judged, *names: str) -> list[Any]:
    """Values of valid rows: bare where one column is asked for."""
    columns = [found.valid[name].to_pylist() for name in names]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def dates_of(found: Judged) -> set[str]:
    return {*found.valid[DS].to_pylist(), *found.refused[DS].to_pylist()}


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """The files below a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
    return folder


def rows_of(source: Source, folder: Path, content: str | bytes, name: str = "0.csv") -> pa.Table:
    return raw_rows(source, files_of(write(folder, {name: content}) / name))


def pairs(raw: pa.Table) -> list[tuple[Any, Any]]:
    assert not any(marks_of(raw))
    return list(zip(raw["id"].to_pylist(), raw["name"].to_pylist(), strict=True))
