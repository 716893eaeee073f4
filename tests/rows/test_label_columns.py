"""Scoring takes files without the columns of the label; nothing else does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest

from jobs.base.errors import DataRefused
from jobs.rows.judge.engine import Engine
from jobs.rows.read.pieces import cut
from schemas.dataset import Column, Dataset, Source
from schemas.field import Carried, Label, Numeric
from tests.rows.engines import WHOLE, files_of, judged_files, reasons_of, values_of

SOURCE = Source(
    "visits",
    (
        Column("late", "double", nullable=False, max=9, of_label=True, header="Late, by"),
        Column("n", "int", min=0),
        Column("y", "int", allowed=(0, 1), of_label=True),
        Column("name", "string"),
    ),
)
FIELDS = (
    Label("label", "y"),
    Numeric("n"),
    Carried("name_", "name"),
    Carried("l", "late", "double"),
)
ROWS = [(5.0, 1, 1, "a"), (None, 2, None, "b"), (99.0, -1, 7, "c"), (1.5, None, 0, None)]
Writer = Callable[[Path, Source, list[int]], None]


def as_csv(file: Path, source: Source, kept: list[int]) -> None:
    lines = [[f'"{source.header_names[place]}"' for place in kept]]
    lines += [["" if row[c] is None else str(row[c]) for c in kept] for row in ROWS]
    file.write_text("".join(source.delimiter.join(line) + "\n" for line in lines))


def as_json(file: Path, source: Source, kept: list[int]) -> None:
    rows = [{source.column_names[place]: row[place] for place in kept} for row in ROWS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_table(file: Path, source: Source, kept: list[int]) -> None:
    types = [pa.float64(), pa.int32(), pa.int32(), pa.string()]
    columns = {source.column_names[c]: pa.array([r[c] for r in ROWS], types[c]) for c in kept}
    write_table = pq.write_table if source.format == "parquet" else orc.write_table
    write_table(pa.table(columns), file)


FORMATS: dict[str, tuple[Source, Writer]] = {
    "csv": (replace(SOURCE), as_csv),
    "wide delimiter": (replace(SOURCE, delimiter="||"), as_csv),
    "multiline": (replace(SOURCE, multiline=True), as_csv),
    **{
        name: (
            replace(
                SOURCE,
                format=name,  # type: ignore[arg-type]
                columns=tuple(replace(column, header="") for column in SOURCE.columns),
            ),
            as_json if name == "json" else as_table,
        )
        for name in ("json", "parquet", "orc")
    },
}


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("kept", [[0, 1, 3], [1, 2, 3], [1, 3]])
def test_scoring_needs_no_columns_of_the_label(
    format_: str, kept: list[int], tmp_path: Path
) -> None:
    source, written = FORMATS[format_]
    dataset = Dataset("visits", (source,), "visits", (), FIELDS)
    written(tmp_path / "0", source, [0, 1, 2, 3])
    written(tmp_path / "1", source, kept)
    whole, partial, both = (
        judged_files(Engine(dataset, ("",), with_label=False), files_of(tmp_path / name), piece)
        for name, piece in (("0", WHOLE), ("1", 10), ("", WHOLE))
    )
    assert values_of(whole, "label", "n", "name_") == [
        (None, 1, "a"),
        (None, 2, "b"),
        (None, None, None),
    ]
    assert values_of(partial, "label", "n", "name_") == values_of(whole, "label", "n", "name_")
    assert both.valid.num_rows == 2 * whole.valid.num_rows
    expected = [5.0, None, 1.5] if 0 in kept else [None] * 3
    assert values_of(partial, "l") == expected
    for found in (whole, partial):
        assert [*reasons_of(found).values()] == [["below_min:n"]]


@pytest.mark.parametrize("format_", [name for name in FORMATS if name != "json"])
def test_what_else_a_file_lacks_refuses_it_by_name(format_: str, tmp_path: Path) -> None:
    source, written = FORMATS[format_]
    written(tmp_path / "0", source, [1, 3])
    written(tmp_path / "1", source, [0, 1, 2])
    with pytest.raises(DataRefused, match=r"missing (Late, by|late), y; unknown none"):
        cut(files_of(tmp_path / "0"), source, WHOLE)
    with pytest.raises(DataRefused, match="missing name; unknown none"):
        cut(files_of(tmp_path / "1"), source, WHOLE, with_label=False)
    if written is as_csv:
        written(tmp_path / "2", source, [3, 1])
        with pytest.raises(DataRefused, match="the order differs"):
            cut(files_of(tmp_path / "2"), source, WHOLE, with_label=False)
