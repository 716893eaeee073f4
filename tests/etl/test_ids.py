"""Ids without a vocabulary, crosses, shared vocabularies, text transforms: what a row's ids are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.etl.encode import encode, large_vocabularies
from jobs.etl.fit import ID_LOG, new_entries
from jobs.etl.states import states
from jobs.lake.files import NewFile
from jobs.lake.tables import Table
from schemas.dataset import Column, Dataset, DeclarationError, Source
from schemas.field import FIRST_OOV_ID, NULL_ID, Categorical, Label
from schemas.hashed import Bucketized, Hashed
from schemas.text import Lower, Replace, Trim
from tests.builders.fitting import contributions

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
    (1, "ewr", " JFK\t", 17.9),
    (2, "jfk", "ewr", 18.0),
    (3, "jfk", "   ", 30.0),
    (4, None, None, None),
    (5, "lga", "Jfk", 65.5),
    (6, "jfk", "ewr", -1e9),
    (7, "sfo", "lga", 40.0),
]


def declared(*more: Categorical) -> Dataset:
    columns = (Column("k", "int"), Column("origin", "string"), Column("dest", "string"))
    source = Source("rows", columns=(*columns, Column("age", "double"), Column("y", "int")))
    fields = (Label("label", "y"), *FIELDS, *more)
    return Dataset("made_up", (source,), "rows", ("k",), fields, ds="k")


def values(spark: SparkSession, dataset: Dataset, rows: Iterable[tuple[Any, ...]]) -> DataFrame:
    """As validation leaves them: one text a categorical field."""
    raw = spark.createDataFrame(rows, "k int, origin string, dest string, age double")
    texts = [F.expr(f.sql).alias(f.name) for f in dataset.categorical]
    label = F.lit(1.0).cast("float").alias("label")
    return raw.select("k", F.lit(DS).alias("ds"), F.xxhash64("k").alias("row_id"), label, *texts)


def log(spark: SparkSession, dataset: Dataset, rows: DataFrame) -> DataFrame:
    none = spark.createDataFrame([], ID_LOG)
    return new_entries(contributions(rows, dataset, [DS]), none, dataset, [DS])


def ids(frame: DataFrame) -> dict[int, dict[str, int]]:
    return {row["k"]: row.asDict() for row in frame.collect()}


@pytest.fixture(scope="module")
def encoded(spark: SparkSession) -> dict[int, dict[str, int]]:
    dataset = declared()
    rows = values(spark, dataset, ROWS)
    return ids(encode(rows, dataset, log(spark, dataset, rows), DS))


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
    spark: SparkSession,
) -> None:
    dataset = declared()
    rows = values(spark, dataset, ROWS)
    counts = contributions(rows, dataset, [DS])
    assert {row["field"] for row in counts.select("field").distinct().collect()} == {
        "airport",
        "route",
    }
    entries = new_entries(counts, spark.createDataFrame([], ID_LOG), dataset, [DS])
    for state in (
        states(counts, entries, dataset, [DS], 1, 1)[DS],
        states(counts.limit(0), entries.limit(0), dataset, [DS], 1, 1)[DS],
    ):
        sizes = dict(
            zip((f.name for f in dataset.categorical), state.table_rows(dataset), strict=True)
        )
        assert (sizes["route_hash"], sizes["dest_hash"], sizes["age_group"]) == (52, 9, 6)
        assert sizes["origin_id"] == sizes["dest_id"]


def test_one_row_alone_is_encoded_as_in_the_batch(
    spark: SparkSession, encoded: dict[int, dict[str, int]]
) -> None:
    dataset = declared()
    entries = log(spark, dataset, values(spark, dataset, ROWS)).persist()
    alone = [encode(values(spark, dataset, [row]), dataset, entries, DS) for row in ROWS[1:3]]
    assert ids(alone[0].unionByName(alone[1])) == {k: encoded[k] for k in (2, 3)}


def test_a_vocabulary_too_large_to_broadcast_is_shuffled_with_the_same_ids(
    spark: SparkSession, encoded: dict[int, dict[str, int]], tmp_path: Any
) -> None:
    dataset = declared()
    rows = values(spark, dataset, ROWS)
    table = Table(str(tmp_path / "id_log"))
    logged = log(spark, dataset, rows).withColumn("run", F.lit("r")).select(ID_LOG.names)
    staged = table.stage(logged.drop("run").repartition(1), "r", [])
    files = [NewFile(f.path, {"run": "r"}, f.bytes, f.row_group_rows) for f in staged]
    table.replace(files, ID_LOG, ["run"], {"run": ["r"]}, {}, "etl", 1)
    entries = table.spark(spark, ID_LOG)
    assert large_vocabularies(table, entries, 100) == frozenset()
    assert large_vocabularies(table, entries, 3) == {"route"}
    shuffled = encode(rows, dataset, entries, DS, shuffled=["route", "airport"])
    plan = shuffled._jdf.queryExecution().toString()  # type: ignore[operator]
    assert plan.count("SortMergeJoin") >= 3
    assert "BroadcastHashJoin" not in plan
    assert ids(shuffled) == encoded


def test_text_transforms(spark: SparkSession) -> None:
    f = Categorical("t", "x", transforms=(Replace(r"\d+'?", r"<$0\>"), Trim(), Lower()))
    texts = [(" A12' ",), ("ÄB\t",), ("",), (None,)]
    found = spark.createDataFrame(texts, "x string").select(F.expr(f.sql)).collect()
    assert [row[0] for row in found] == ["a<12'>", "äb", None, None]


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
    with pytest.raises(ValueError, match="must ascend"):
        Bucketized("b", boundaries=(2.0, 1.0))
    with pytest.raises(ValueError, match="max_size is 5"):
        Hashed("h", max_size=5)
