"""Ids without a vocabulary, crosses, shared vocabularies, text transforms: what a row's ids are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.etl.fit.entries import new_entries
from jobs.etl.fit.states import states
from jobs.lake.state import State
from schemas.dataset import Column, Dataset, DeclarationError, Source
from schemas.field import FIRST_OOV_ID, NULL_ID, Categorical, Label
from schemas.hashed import Bucketized, Hashed
from schemas.text import Lower, Replace, Trim
from tests.builders.fitting import contributions, entries_of, history_of
from tests.builders.judged import encoded as encoded_by
from tests.builders.judged import judged

DS = "2024-01-01"
FIELDS = (
    Categorical("origin_id", "origin", vocabulary="airport", min_count=2),
    Categorical("dest_id", "dest", vocabulary="airport", min_count=2, transforms=(Trim(), Lower())),
    Categorical("route", crossed=("origin_id", "dest_id")),
    Hashed("route_hash", crossed=("origin_id", "dest_id"), oov_buckets=50),
    Hashed("dest_hash", "dest", oov_buckets=7),
    Bucketized("age_group", "age", boundaries=(18.0, 30.0, 65.5)),
)
ROWS: list[tuple[Any, ...]] = [
    (1, "ewr", " JFK\t", 17.9, 1),
    (2, "jfk", "ewr", 18.0, 1),
    (3, "jfk", "   ", 30.0, 1),
    (4, None, None, None, 1),
    (5, "lga", "Jfk", 65.5, 1),
    (6, "jfk", "ewr", -1e9, 1),
    (7, "sfo", "lga", 40.0, 1),
]


def declared(*more: Categorical) -> Dataset:
    columns = (Column("k", "int"), Column("origin", "string"), Column("dest", "string"))
    source = Source("rows", columns=(*columns, Column("age", "double"), Column("y", "int")))
    fields = (Label("label", "y"), *FIELDS, *more)
    return Dataset("made_up", (source,), "rows", ("k",), fields, ds=f"DATE'{DS}'")


def values(dataset: Dataset, folder: Path, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    """Rows as the engine leaves them."""
    lines = [",".join("" if cell is None else str(cell) for cell in row) for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "rows.csv"
    file.write_text("\n".join(["k,origin,dest,age,y", *lines]) + "\n", encoding="utf-8")
    found = judged(dataset, {"rows": str(file)}, [DS])
    assert found.refused.num_rows == 0
    return found.valid


def log(spark: SparkSession, dataset: Dataset, rows: pa.Table, folder: Path) -> pa.Table:
    past = history_of(spark, folder, [rows], dataset, [DS])
    return new_entries(past, entries_of([]), dataset, [DS])


def ids(rows: pa.Table) -> dict[int, dict[str, int]]:
    return {row["k"]: row for row in rows.to_pylist()}


@pytest.fixture(scope="module")
def encoded(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, dict[str, int]]:
    dataset, folder = declared(), tmp_path_factory.mktemp("ids")
    rows = values(dataset, folder, ROWS)
    return ids(encoded_by(dataset, rows, log(spark, dataset, rows, folder), folder))


def test_fields_of_one_vocabulary_give_a_value_one_id(encoded: dict[int, dict[str, int]]) -> None:
    jfk, ewr = encoded[2]["origin_id"], encoded[2]["dest_id"]
    # By their counts together: jfk stands five times, ewr three times, lga once in each, sfo once.
    assert (jfk, ewr, encoded[5]["origin_id"]) == (3, 4, 5)
    assert encoded[7]["dest_id"] == encoded[5]["origin_id"]
    assert encoded[7]["origin_id"] == FIRST_OOV_ID
    assert encoded[1]["origin_id"] == ewr
    assert encoded[1]["dest_id"] == encoded[5]["dest_id"] == jfk
    assert encoded[3]["dest_id"] == encoded[4]["dest_id"] == NULL_ID


def test_a_cross_is_of_both_values_and_null_where_both_are(
    encoded: dict[int, dict[str, int]],
) -> None:
    assert encoded[2]["route"] == encoded[6]["route"]
    assert encoded[4]["route"] == encoded[4]["route_hash"] == NULL_ID
    routes = [encoded[k]["route"] for k in (1, 2, 3, 5)]
    assert len(set(routes)) == 4
    assert NULL_ID not in routes
    assert encoded[2]["route_hash"] == encoded[6]["route_hash"]
    assert all(2 <= encoded[k]["route_hash"] < 52 for k in (1, 2, 3, 5, 6))


def test_buckets_start_at_their_boundary(encoded: dict[int, dict[str, int]]) -> None:
    found = {k: row["age_group"] - FIRST_OOV_ID for k, row in encoded.items() if k != 4}
    assert found == {1: 0, 2: 1, 3: 2, 5: 3, 6: 0, 7: 2}
    assert encoded[4]["age_group"] == NULL_ID


def test_what_has_no_vocabulary_is_not_counted_and_has_a_table_of_fixed_size(
    spark: SparkSession, tmp_path: Path
) -> None:
    dataset = declared()
    rows = values(dataset, tmp_path, ROWS)
    past = history_of(spark, tmp_path, [rows], dataset, [DS])
    assert set(contributions(past)["field"].to_pylist()) == {"airport", "route"}
    entries = new_entries(past, entries_of([]), dataset, [DS])
    nothing = history_of(spark, tmp_path, [], dataset, [DS])
    (of_rows,) = states(past, entries, dataset, [DS], 1, 1)
    (of_none,) = states(nothing, entries_of([]), dataset, [DS], 1, 1)
    for sizes in (_sizes(of_rows, dataset), _sizes(of_none, dataset)):
        assert (sizes["route_hash"], sizes["dest_hash"], sizes["age_group"]) == (52, 9, 6)
        assert sizes["origin_id"] == sizes["dest_id"]


def _sizes(state: State, dataset: Dataset) -> dict[str, int]:
    names = [f.name for f in dataset.categorical]
    return dict(zip(names, state.table_rows(dataset.categorical), strict=True))


def test_one_row_alone_is_encoded_as_in_the_batch(
    spark: SparkSession, tmp_path: Path, encoded: dict[int, dict[str, int]]
) -> None:
    dataset = declared()
    entries = log(spark, dataset, values(dataset, tmp_path, ROWS), tmp_path)
    for number, row in enumerate(ROWS):
        alone = values(dataset, tmp_path / str(number), [row])
        found = ids(encoded_by(dataset, alone, entries, tmp_path / str(number)))
        assert found == {row[0]: encoded[row[0]]}


def test_text_transforms(tmp_path: Path) -> None:
    f = Categorical("t", "origin", transforms=(Replace(r"\d+'?", r"<\0>"), Trim(), Lower()))
    texts = [" A12' ", "ÄB\t", "", None]
    rows = [(k, text, "x", 1, 1) for k, text in enumerate(texts)]
    assert values(declared(f), tmp_path, rows)["t"].to_pylist() == ["a<12'>", "äb", None, None]


@pytest.mark.parametrize(
    ("field", "named"),
    [
        (Categorical("c", crossed=("origin_id", "nowhere")), "crosses origin_id, nowhere"),
        (Categorical("c", crossed=("origin_id", "route")), "crosses origin_id, route"),
        (Categorical("c", crossed=("origin_id",)), "give 2 or more"),
        (Categorical("c", "x", crossed=("origin_id", "dest_id")), "one of the two"),
        (Categorical("c", vocabulary="airport"), "share a vocabulary"),
    ],
)
def test_impossible_ids_are_refused(field: Categorical, named: str) -> None:
    with pytest.raises(DeclarationError, match=named):
        declared(field)


def test_impossible_buckets_are_refused() -> None:
    with pytest.raises(ValueError, match="numbers that ascend"):
        Bucketized("b", boundaries=(2.0, 1.0))
    with pytest.raises(ValueError, match="max_size is 5"):
        Hashed("h", max_size=5)
