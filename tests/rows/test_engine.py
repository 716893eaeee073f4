"""Judging: dates, keys, types and names, on small tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.base.errors import ConfigError
from jobs.rows.judge import engine as engine_module
from jobs.rows.judge.engine import Engine
from jobs.rows.judge.expressions import refuse_bad_expressions
from jobs.rows.judge.identity import Split
from jobs.rows.read.pieces import cut, read_rows
from schemas.dataset import ROW_ID, Column, Dataset, Join, Source
from schemas.field import (
    Carried,
    Categorical,
    Field,
    Label,
    Numeric,
    NumericList,
    Tensor,
    Weight,
)
from tests.rows.engines import (
    ONE,
    WHOLE,
    declared,
    files_of,
    judged,
    reasons_of,
    values_of,
    write,
)

FIRST, SECOND = "2024-01-01", "2024-01-02"
SPLIT = Split(7, {"train": 0.5, "test": 0.5})


def as_type(type_: str, text: str, folder: Path) -> Any:
    """What a text is as a column of a type, or the reason that it is none."""
    dataset = declared(
        Column("v", type_), Column("n", "int"), fields=(ONE, Carried("v_", "v", type=type_))
    )
    found = judged(dataset, write(folder, {"0.csv": f"{text},1\n"}))
    (reasons,) = reasons_of(found).values() or [None]
    return reasons[0] if reasons else values_of(found, "v_")[0]


BAD = "unparsable:v"


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        *[(kind, " 12", 12) for kind in ("tinyint", "int", "bigint", "double")],
        *[(kind, "12 ", 12) for kind in ("tinyint", "int", "bigint", "double")],
        *[(kind, '" 12 "', 12) for kind in ("smallint", "float")],
        *[(kind, "1\0", BAD) for kind in ("int", "double", "boolean")],
        *[(kind, "\t12", BAD) for kind in ("int", "double")],
        *[(kind, "\u00a012", BAD) for kind in ("int", "double")],
        *[(kind, "  ", BAD) for kind in ("int", "double", "boolean", "date")],
        *[(kind, '""', None) for kind in ("int", "double", "string", "date")],
        *[(kind, "", None) for kind in ("int", "double", "string", "date")],
        ("int", "1_000", BAD),
        ("int", "1e2", BAD),
        ("int", "1.0", BAD),
        ("int", "0x1F", BAD),
        ("double", "1_000.5", BAD),
        ("double", "NaN", BAD),
        ("double", "1e400", BAD),
        ("double", "1e-400", 0.0),
        ("boolean", " true ", True),
        ("boolean", "NO", False),
        ("boolean", "on", BAD),
        ("boolean", "2", BAD),
        ("date", " 2024-05-01 ", datetime(2024, 5, 1).date()),
        ("date", "2024-5-1", datetime(2024, 5, 1).date()),
        ("date", "2024-05-01 12:00", BAD),
        ("date", "2024-02-30", BAD),
        ("date", "01.05.2024", BAD),
        ("date", "epoch", BAD),
        ("date", "infinity", BAD),
        ("date", "2024-05-01 (BC)", BAD),
        ("timestamp", " 2024-05-01T12:00:00.123456 ", datetime(2024, 5, 1, 12, 0, 0, 123456)),
        ("timestamp", "2024-05-01", datetime(2024, 5, 1)),
        ("timestamp", "2024-05-01 12:00", datetime(2024, 5, 1, 12)),
        ("timestamp", "2024-05-01T12:00:00Z", datetime(2024, 5, 1, 12)),
        ("timestamp", "2024-05-01T12:00:00+02:00", datetime(2024, 5, 1, 10)),
        ("timestamp", "2024-05-01 12:00:00 -0530", datetime(2024, 5, 1, 17, 30)),
        ("timestamp", "2024-05-01T00:00:00+14", datetime(2024, 4, 30, 10)),
        ("timestamp", "2024-05-01T00:00:00+23:59", datetime(2024, 4, 30, 0, 1)),
        *[("timestamp", f"2024-05-01T00:00:00{zone}", BAD) for zone in ("+24", "-25:00", "+0160")],
        ("timestamp", "2024-05-01T25:00:00", BAD),
        ("timestamp", "2024-05-01T12:00:00 Europe/Paris", BAD),
        ("timestamp", "infinity", BAD),
        ("timestamp", "0001-01-01T00:00:00+00:01", BAD),
        ("timestamp", "9999-12-31T23:59:59-01", BAD),
        ("timestamp", "9999-12-31T23:59:59.999999", datetime.max),
        ("timestamp", "now", BAD),
        ("string", " 12", " 12"),
        ("string", "1\0", "1\0"),
    ],
)
def test_values_are_read_strictly(type_: str, text: str, value: Any, tmp_path: Path) -> None:
    assert as_type(type_, text, tmp_path) == value


# Names


@pytest.mark.parametrize(
    "name",
    [
        *("ordinal", "malformed", "miscoded", "corrupt", "ds", "raw", "split", "reasons"),
        *("source_file", "row_id", "encoding", "repeated_header", "file", "line", "order", "value"),
        *("select", "Unit price", 'say "x"', "a.b", "a b'c", "é", "n", "p", "k", "lambda", "none"),
    ],
)
@pytest.mark.parametrize("parent", [False, True])
def test_a_raw_column_may_have_any_name(name: str, parent: bool, tmp_path: Path) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    parents = (Source("parent", (Column("key", "int"), Column(name, "string")), header=False),)
    dataset = declared(
        Column("n1", "int", nullable=False),
        Column(name, "string", pattern="^a"),
        fields=(
            Numeric("n1_value", "n1"),
            Carried("as_is", quoted),
            Carried("made", f"{quoted} || '!'"),
            *([Carried("theirs", f"parent.{quoted}")] if parent else []),
        ),
        key=("n1",),
        **({"parents": parents, "joins": (Join("parent", on=(("n1", "key"),)),)} if parent else {}),
    )
    rows = write(tmp_path, {"0.csv": "1,a\n2,b\n3,a3\n"})
    theirs = write(tmp_path / "parent", {"0.csv": "1,one\n3,three\n"})
    found = judged(dataset, rows / "0.csv", parents={"parent": theirs}, split=SPLIT)
    assert values_of(found, "n1", "as_is", "made") == [(1, "a", "a!"), (3, "a3", "a3!")]
    assert reasons_of(found) == {"2,b": [f"pattern:{name}"]}
    if parent:
        assert values_of(found, "theirs") == ["one", "three"]


def test_a_column_named_ordinal_hides_no_repeated_key(tmp_path: Path) -> None:
    dataset = declared(
        Column("id", "int"), Column("ordinal", "int"), key=("id",), fields=(Numeric("ordinal"),)
    )
    found = judged(dataset, write(tmp_path, {"0.csv": "1,1\n1,2\n2,1\n"}))
    ids = found.valid[ROW_ID].to_pylist()
    assert ids[0] == ids[1] != ids[2]


# Keys


@pytest.mark.parametrize("type_", ["double", "float"])
def test_zero_is_one_key_whatever_its_sign(type_: str, tmp_path: Path) -> None:
    dataset = declared(Column("k", type_), Column("n", "int"), key=("k",), fields=(Numeric("n"),))
    content = "0.0,1\n-0.0,2\n-0,3\n0,4\n1,5\n"
    found = judged(dataset, write(tmp_path, {"0.csv": content}), split=SPLIT)
    ids = found.valid[ROW_ID].to_pylist()
    assert len({*ids[:4]}) == 1 and ids[4] != ids[0]
    assert len({*found.valid["split"].to_pylist()[:4]}) == 1


def test_a_keys_columns_are_never_null(tmp_path: Path) -> None:
    dataset = declared(
        Column("a", "int"), Column("b", "string"), key=("a", "b"), fields=(Numeric("n", "a"),)
    )
    found = judged(dataset, write(tmp_path, {"0.csv": "1,x\n,x\n1,\n,\n"}))
    assert reasons_of(found) == {
        ",x": ["null:a"],
        "1,": ["null:b"],
        ",": ["null:a", "null:b"],
    }


def test_a_row_id_is_of_date_and_key_alone(tmp_path: Path) -> None:
    columns = (Column("k", "string"), Column("n", "int"))
    dataset = declared(*columns, key=("k",), fields=(Numeric("n"),))
    write(tmp_path, {f"{FIRST}.csv": "a,1\nb,2\n", f"{SECOND}.csv": "b,3\na,4\n"})
    found = judged(dataset, f"{tmp_path}/{{ds}}.csv", FIRST, SECOND, split=SPLIT)
    ids = found.valid[ROW_ID].to_pylist()
    assert len({*ids}) == 4
    again = judged(dataset, f"{tmp_path}/{{ds}}.csv", SECOND, piece_bytes=3)
    assert again.valid[ROW_ID].to_pylist() == ids[2:]
    splits = dict(zip(found.valid["n"].to_pylist(), found.valid["split"].to_pylist(), strict=True))
    assert splits[1] == splits[4] and splits[2] == splits[3]


# Fields


def test_what_an_expression_cannot_make_is_null(tmp_path: Path) -> None:
    fields = (
        Numeric("whole", "n + 1"),
        Numeric("of_text", "CAST(t AS INTEGER)"),
        Numeric("shifted", "100 // (n - 1)"),
        Categorical("day", "make_date(2024, n, 30)"),
        Carried("small", "n", type="tinyint"),
        Label("y", "CAST(t AS DOUBLE)"),
    )
    dataset = declared(Column("n", "int"), Column("t", "string"), fields=fields)
    rows = ["1,5", "2147483647,6", "2,x", "12,"]
    found = judged(dataset, write(tmp_path, {"0.csv": "\n".join(rows)}))
    assert reasons_of(found) == {"2,x": ["label_absent"], "12,": ["label_absent"]}
    assert values_of(found, "whole", "of_text", "shifted", "day", "small") == [
        (2, 5, None, "2024-01-30", 1),
        (None, 6, 0, None, None),
    ]


def test_numbers_that_do_not_fit_their_field_are_refused(tmp_path: Path) -> None:
    fields = (
        Label("y", "a", task="multiclass", classes=3),
        Weight("w", "b"),
        Numeric("x", "a * b"),
        NumericList("l", "[a, b]", max_length=2),
        Tensor("t", "CASE WHEN a = 1 THEN [a] ELSE [a, b] END", shape=(2,)),
    )
    dataset = declared(Column("a", "double"), Column("b", "double"), fields=fields)
    expected = {
        "2,1": [],
        "3,1": ["no_class:y"],
        "0.5,1": ["no_class:y"],
        ",1": ["label_absent", "null_element:l", "shape:t"],
        "1,1": ["shape:t"],
        "2,0": ["weight:w"],
        "2,-1": ["weight:w"],
        "2,": ["weight:w", "null_element:l", "shape:t"],
        "2,1e39": ["weight:w", "not_finite:x", "null_element:l", "shape:t"],
        "1e39,1": ["not_finite:y", "not_finite:x", "null_element:l", "shape:t"],
    }
    found = judged(dataset, write(tmp_path, {"0.csv": "\n".join(expected)}))
    got = {**{row: [] for row in expected}, **reasons_of(found)}
    assert got == expected
    assert found.valid.num_rows == 1


@pytest.mark.parametrize(
    "kind", [NumericList("l", "x", max_length=2), Tensor("l", "x", shape=(2,))]
)
def test_elements_are_finite(kind: Field, tmp_path: Path) -> None:
    dataset = declared(Column("t", "string"), fields=(replace(kind, expr="string_split(t, '|')"),))
    rows = ["1|2", "1|NaN", "-inf|1", "1|1e400", "3e38|3e38"]
    found = judged(dataset, write(tmp_path, {"0.csv": "\n".join(rows)}))
    assert reasons_of(found) == {row: ["not_finite:l"] for row in rows[1:4]}
    assert found.valid.num_rows == 2


def test_labels_are_not_judged_in_scoring(tmp_path: Path) -> None:
    dataset = declared(
        Column("y", "int", nullable=False, allowed=(0, 1), of_label=True),
        Column("n", "int", min=0),
        fields=(Label("label", "y"), Numeric("n")),
    )
    folder = write(tmp_path, {"0.csv": "x,1\n,2\n7,3\nx,-1\n1\n"})
    found = judged(dataset, folder, with_label=False)
    assert values_of(found, "label", "n") == [(None, 1), (None, 2), (None, 3)]
    assert reasons_of(found) == {"x,-1": ["below_min:n"], "1": ["malformed"]}


def test_memory_that_does_not_suffice_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_MEMORY_MB", 16)
    dataset = declared(Column("n", "int"), fields=(ONE, Carried("long", "repeat('x', n)")))
    folder = write(tmp_path, {"0.csv": "20000000\n" * 20})
    with pytest.raises(ConfigError, match="take more than 16 MiB of memory for 20 rows"):
        judged(dataset, folder)


def test_chunks_and_slices_change_nothing(tmp_path: Path) -> None:
    dataset = declared(
        Column("n", "int"),
        Column("x", "double", min=0),
        Column("t", "string", pattern="^[a-z]*$"),
        fields=(Numeric("n"), Numeric("x"), Categorical("t_id", "t")),
    )
    lines = [f"{n},{n / 8},{'ab' * (n % 3)}" if n % 5 else f"1.5,-1,{n}" for n in range(200)]
    files = files_of(write(tmp_path, {"0.csv": "\n".join(lines)}))
    (whole,) = read_rows(cut(files, dataset.row_source, WHOLE), dataset.row_source)
    engine = Engine(dataset, ("",))
    expected = engine.judge(whole)
    parts = [whole.slice(start, 7) for start in range(0, 200, 7)]
    together = engine.judge(pa.concat_tables(parts))
    apart = [engine.judge(part) for part in parts]
    for name in ("row_id", "n", "x"):
        values = expected.valid[name].to_pylist()
        assert together.valid[name].to_pylist() == values
        assert [v for one in apart for v in one.valid[name].to_pylist()] == values
    reasons = [row["reasons"] for row in expected.refused.to_pylist()]
    assert reasons[0] == ["unparsable:n", "below_min:x", "pattern:t"]
    assert [r["reasons"] for one in apart for r in one.refused.to_pylist()] == reasons
    assert np.array(reasons).shape == (40, 3)


@pytest.mark.parametrize(
    "dataset",
    [
        declared(Column("t", "date", min=1), fields=(ONE,)),
        declared(Column("t", "timestamp", max=1), fields=(ONE,)),
    ],
)
def test_what_cannot_be_bound_is_refused_before_anything_is_read(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="its rules or joins cannot be bound: "):
        refuse_bad_expressions(dataset)


def test_bounds_of_texts_are_of_those_that_are_numbers(tmp_path: Path) -> None:
    dataset = declared(Column("t", "string", min=1), Column("n", "int"), fields=(ONE,))
    refuse_bad_expressions(dataset)
    found = judged(dataset, write(tmp_path, {"0.csv": "0,1\n1,2\nx,3\n,4\n"}))
    assert reasons_of(found) == {"0,1": ["below_min:t"]}
