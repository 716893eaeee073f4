"""Columns of any name and type: what operations keep stays as it is, and keys find their rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.evaluate.predict.predictions import predictions_schema
from jobs.main import main
from jobs.operations.keys import Keys
from jobs.operations.raw_keys import SERVED_TEXTS, marked_json
from jobs.settings.load import load_settings
from schemas.source import spark_name
from tests.builders.lakes import example_rows, examples_of, lake_of, quarantined
from tests.builders.visits import Raw

DS = "2024-01-01"
DECLARATION = """
from schemas.dataset import Column, Dataset, Source
from schemas.field import Carried, Categorical, Label, Numeric
source = Source(
    "c",
    columns=(
        Column("event.id", "bigint", nullable=False),
        Column("run", "string"),
        Column("pri`ce", "double"),
        Column("it's?", "string"),
        Column("y", "int", nullable=False),
        Column("at", "timestamp"),
        Column("on", "date"),
        Column("few", "tinyint"),
        Column("some", "smallint"),
        Column("is", "boolean"),
        Column("part", "float"),
        Column("whole", "double"),
    ),
)
D = Dataset(
    name="visits",
    sources=(source,),
    rows="c",
    key=("event.id", "pri`ce"),
    fields=(
        Label("label", "CAST(y AS FLOAT)"),
        Numeric("amount", '"pri`ce" + 100'),
        Categorical("run_id2", "run"),
        Carried("run"),
        Carried("it's?"),
        Carried("_metadata", "run"),
        Carried("at", type="timestamp"),
        Carried("on", type="date"),
        Carried("few", type="tinyint"),
        Carried("some", type="smallint"),
        Carried("is", type="boolean"),
        Carried("part", type="float"),
        Carried("whole", type="double"),
    ),
)
"""


CONFIG = """
schema: ./odd.py:D
lake: lake
etl:
  sources: {c: "raw/{ds}.csv"}
  shard_rows: 20
  row_group_rows: 8
  max_quarantined_fraction: 0.5
"""
KEY = ("--key", "event.id=3", "pri`ce=3.5", "it's?=w0", "run=morning1")
# A refused row of the entity, and one of another.
REFUSED = ("3,morning1,3.5,w0,NA", "3,morning1,3.5,w1,NA")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    # The folder must not be taken for a partition's.
    raw = Raw(tmp_path_factory.mktemp("odd") / "ds=2020-01-01")
    lines = [
        f"{i},morning{i % 2},{i % 7}.5,w{i % 3},{i % 2},"
        + (f"{DS} 10:00:{i},{DS},{i},-{i},true,-0.0,{i}e-3" if i % 4 else ",,,,,,")
        for i in range(60)
    ]
    header = "event.id,run,pri`ce,it's?,y,at,on,few,some,is,part,whole"
    text = "\n".join([header, *lines, *(f"{line},,,,,,," for line in REFUSED)]) + "\n"
    for name, content in (
        ("odd.py", DECLARATION),
        ("visits.yaml", CONFIG),
        (f"raw/{DS}.csv", text),
    ):
        file = raw.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert main(["etl", "--config", str(raw.config), "--quiet", "--date", DS]) == 0
    add_predictions(raw, spark)
    return raw


def add_predictions(raw: Raw, spark: SparkSession) -> None:
    dataset, table = load_settings(raw.config).dataset(), lake_of(raw).table("predictions")
    schema = predictions_schema(dataset)
    examples = lake_of(raw).table("examples").spark(spark, dataset.examples_schema())
    added = {"score": F.lit(0.5).cast("float"), "model_version": F.lit("1"), "run_id": F.lit("s")}
    rows = examples.withColumns(added).select(*[F.col(spark_name(name)) for name in schema.names])
    files = table.stage(rows, "score-1", ["ds"])
    table.replace(files, schema, ["ds"], {"ds": [DS]}, {"run": "score-1"}, "score", 1)


def test_compacted_rows_are_the_same(made: Raw, tmp_path: Path) -> None:
    raw = made.copy(tmp_path / "ds=2020-01-01")
    before = example_rows(raw)
    assert set(before["run"]) == {"morning0", "morning1"}
    sizes = ("--set", "etl.shard_rows=1000", "--set", "etl.row_group_rows=1000")
    assert main(["compact", "--config", str(raw.config), "--quiet", *sizes]) == 0
    assert len(examples_of(raw).shards()) == 3
    assert example_rows(raw).equals(before)


def test_only_an_entitys_rows_are_erased(made: Raw, tmp_path: Path) -> None:
    raw = made.copy(tmp_path / "copy")
    predictions = lake_of(raw).table("predictions")
    examples, predicted = example_rows(raw), predictions.read_arrow().to_pandas()
    assert main(["erase", "--config", str(raw.config), "--quiet", *KEY]) == 0
    kept = examples[examples["event.id"] != 3].reset_index(drop=True)
    assert len(kept) == len(examples) - 1
    assert example_rows(raw).equals(kept)
    after = predictions.read_arrow().to_pandas().sort_values("row_id", ignore_index=True)
    expected = predicted[predicted["event.id"] != 3].sort_values("row_id", ignore_index=True)
    assert after.equals(expected)
    assert [row["raw"] for row in quarantined(raw)] == [f"{REFUSED[1]},,,,,,,"]


def test_served_rows_are_found_by_odd_names(made: Raw, spark: SparkSession) -> None:
    dataset = load_settings(made.config).dataset()
    row = {"event.id": 3, "run": "a", "pri`ce": 3.5, "it's?": "w0"}
    texts = [row, {**row, "it's?": "w1"}, {**row, "event.id": 3.0}, {**row, "pri`ce": None}]
    rows = spark.createDataFrame([(DS, json.dumps(text)) for text in texts], SERVED_TEXTS)
    keys = Keys(({"event.id": "3", "pri`ce": "3.5", "it's?": "w0"},))
    marked = marked_json(rows, dataset, keys)
    assert [row["__hit"] for row in marked.collect()] == [True, False, True, False]
