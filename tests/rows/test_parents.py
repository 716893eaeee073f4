"""Judging: rows joined with parents, on small tables."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.base.errors import ConfigError, DataRefused
from jobs.rows.judge import parents
from jobs.rows.judge.engine import Engine
from jobs.rows.judge.expressions import refuse_bad_expressions
from jobs.rows.judge.identity import Split
from schemas.dataset import Column, Dataset, Join, Source
from schemas.field import Carried, Numeric
from tests.rows.engines import declared, judged, reasons_of, values_of, write

FIRST, SECOND = "2024-01-01", "2024-01-02"
_PARENT = Source("parent", (Column("k", "int"), Column("v", "string")), header=False)


def joined(required: bool = False, on: str = "n", **more: Any) -> Dataset:
    return declared(
        Column("n", "int"),
        Column("t", "string"),
        Column("x", "double"),
        parents=(more.pop("parent", _PARENT),),
        joins=(Join("parent", on=((on, "k"),), required=required),),
        fields=(Numeric("n_value", "n"), Carried("theirs", "parent.v")),
        **more,
    )


def test_rows_keep_their_order_whatever_the_join(tmp_path: Path) -> None:
    rows = write(tmp_path, {"r": "".join(f"{n % 7},{n},1\n" for n in range(5_000))}) / "r"
    for count in (1, 3, 7, 20_000):
        parent = write(tmp_path, {"p": "".join(f"{n},v{n}\n" for n in range(count))}) / "p"
        found = judged(joined(), rows, parents={"parent": parent})
        assert values_of(found, "theirs") == [
            f"v{n % 7}" if n % 7 < count else None for n in range(5_000)
        ]


def test_a_row_without_a_parent_has_nulls_or_is_refused(tmp_path: Path) -> None:
    rows = write(tmp_path, {"r": "1,a,1\n2,b,1\n,c,1\n"}) / "r"
    parent = write(tmp_path, {"p": "1,one\n,none\n,nothing\n"}) / "p"
    found = judged(joined(), rows, parents={"parent": parent})
    assert values_of(found, "theirs") == ["one", None, None]
    found = judged(joined(required=True), rows, parents={"parent": parent})
    assert reasons_of(found) == {"2,b,1": ["no_parent:parent"], ",c,1": ["no_parent:parent"]}


def test_a_parent_larger_than_its_files_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parents, "_MOST_BYTES", 10_000)
    rows = write(tmp_path, {"r": "1,a,1\n"}) / "r"
    parent = write(tmp_path, {"p": "".join(f"{n},{'v' * 99}\n" for n in range(200))}) / "p"
    with pytest.raises(DataRefused, match=r"'parent'.* column v more than 10,000") as refused:
        judged(joined(), rows, parents={"parent": parent})
    assert "set etl.broadcast_parent_mb to 0" in str(refused.value)


@pytest.mark.parametrize(
    ("on", "row", "theirs"),
    [
        ("n", "1,,", "one"),
        ("t", ",1,", "one"),
        ("t", ",01,", "one"),
        ("t", ",x,", None),
        ("t", ",1.5,", None),
        ("x", ",,1", "one"),
        ("x", ",,1.4", None),
        ("x / 2", ",,2", "one"),
        ("x / 2", ",,3", None),
        ("n + 2147483647", "1,,", None),
    ],
)
def test_a_key_of_another_type_is_read_as_the_parents(
    on: str, row: str, theirs: str | None, tmp_path: Path
) -> None:
    rows = write(tmp_path, {"r": f"{row}\n"}) / "r"
    parent = write(tmp_path, {"p": "1,one\n2,two\n"}) / "p"
    found = judged(joined(on=on), rows, parents={"parent": parent})
    assert values_of(found, "theirs") == [theirs]


def test_zeros_of_both_signs_are_one_key_of_a_parent(tmp_path: Path) -> None:
    source = replace(_PARENT, columns=(Column("k", "double"), _PARENT.columns[1]))
    rows = write(tmp_path, {"r": "1,,0.0\n2,,-0.0\n"}) / "r"
    parent = write(tmp_path, {"p": "-0.0,zero\n1,one\n"}) / "p"
    dataset = joined(on="x", parent=source)
    assert values_of(judged(dataset, rows, parents={"parent": parent}), "theirs") == ["zero"] * 2
    twice = write(tmp_path, {"p2": "-0.0,zero\n0.0,zero\n"}) / "p2"
    with pytest.raises(DataRefused, match=r"'parent': 1 keys \(k\) stand in more than one row"):
        judged(dataset, rows, parents={"parent": twice})


def test_a_parent_with_a_date_belongs_to_it_alone(tmp_path: Path) -> None:
    write(tmp_path, {f"rows-{ds}": "1,,1\n2,,1\n3,,1\n" for ds in (FIRST, SECOND)})
    write(tmp_path, {f"parent-{FIRST}": "1,a\n2,b\n", f"parent-{SECOND}": "2,c\n3,d\n"})
    parents = {"parent": f"{tmp_path}/parent-{{ds}}"}
    found = judged(joined(), f"{tmp_path}/rows-{{ds}}", FIRST, SECOND, parents=parents)
    assert values_of(found, "ds", "theirs") == [
        *((FIRST, value) for value in ("a", "b", None)),
        *((SECOND, value) for value in (None, "c", "d")),
    ]
    (tmp_path / f"parent-{SECOND}").write_text("2,c\n2,d\n")
    with pytest.raises(DataRefused, match=rf"1 keys \(k\) .* on {SECOND}, one is \(2\)"):
        judged(joined(), f"{tmp_path}/rows-{{ds}}", FIRST, SECOND, parents=parents)


@pytest.mark.parametrize("content", ["1,a\nx,b\n", "1,a\n1\n", b"1,a\n2,\xff\n"])
def test_a_parents_malformed_rows_are_refused(content: str | bytes, tmp_path: Path) -> None:
    rows = write(tmp_path, {"r": "1,,1\n"}) / "r"
    parent = write(tmp_path, {"p": content}) / "p"
    with pytest.raises(DataRefused, match="source 'parent' has 1 malformed rows, one is: "):
        judged(joined(), rows, parents={"parent": parent})


def test_a_parent_may_be_empty(tmp_path: Path) -> None:
    write(tmp_path, {"r": "1,,1\n", "p": ""})
    found = judged(joined(), tmp_path / "r", parents={"parent": tmp_path / "p"})
    assert values_of(found, "theirs") == [None]


def test_a_key_of_no_type_that_the_parents_can_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"join with 'parent': .* gives DATE, where a value"):
        refuse_bad_expressions(joined(on="make_date(n, 1, 1)"))


def test_an_engine_can_be_sent(tmp_path: Path) -> None:
    folder = write(tmp_path, {"r": "1,,1\n", "p": "1,one\n"})
    engine = Engine(joined(), ("",), {"parent": pa.table({"x": [1]})}, split=Split(7, {"train": 1}))
    assert pickle.loads(pickle.dumps(engine)).dataset == engine.dataset
    found = judged(joined(), folder / "r", parents={"parent": folder / "p"})
    assert found.valid.num_rows == 1
