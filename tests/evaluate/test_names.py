"""Names that a declaration may give: whatever they are, evaluation judges the model's scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from sklearn import metrics as sk

from jobs.evaluate import job, score
from jobs.operations.served import report_served
from jobs.registry.registry import Registry
from jobs.serve.sample import SERVED
from jobs.settings.load import load_settings
from schemas.dataset import Column, Dataset, DeclarationError, Source
from schemas.field import Carried, Categorical, Label, Numeric, Weight
from tests.builders.lakes import example_rows, lake_of, run_etl
from tests.builders.models import register_model, scores_of
from tests.builders.visits import Raw, rows_of

DS = "2024-01-01"
NAMES = ("day", "visit.no", "shop", "amount", "age", "bought")
# Named like columns that evaluation makes; with marks that mean something to Spark.
ODD = Dataset(
    name="visits",
    sources=(
        Source(
            "visits",
            columns=(
                Column("day", "date", nullable=False),
                Column("visit.no", "int", nullable=False),
                Column("shop", "string"),
                Column("amount", "double"),
                Column("age", "int"),
                Column("bought", "int", min=0, max=1, of_label=True),
            ),
        ),
    ),
    rows="visits",
    ds="day",
    key=("visit.no",),
    fields=(
        Label("label", "bought"),
        Weight("Weight", "1 + age % 3"),
        Numeric("Block", "amount"),
        Numeric("slices", "age"),
        Categorical("key", "shop", min_count=2),
        Numeric("rows.of`age", "age * 2"),
        Carried("shop.name`s", "shop", "string"),
    ),
)


def test_odd_names_are_measured_as_they_are(spark: SparkSession, tmp_path: Path) -> None:
    lines = rows_of(DS, 600)
    raw = Raw(tmp_path, declaration="tests.evaluate.test_names:ODD").add(lines)
    buckets = {"by": ["rows.of`age"], "buckets": {"rows.of`age": [60]}}
    raw.settings = {"evaluate": {"slices": ["shop.name`s", buckets]}}
    raw.write(header=",".join(NAMES))
    raw.configure({"visits": "visits.csv"}, parents=False)
    run_etl(raw, spark, [DS])
    settings = load_settings(raw.config)
    model = register_model(settings, DS)

    found = job.run(settings, spark, run_id="evaluate-1", model=model).metrics

    rows = example_rows(raw)
    rows = rows[rows["split"] == "test"]
    scores = scores_of(settings, model, rows)
    auc = sk.roc_auc_score(rows["label"], scores, sample_weight=rows["Weight"])
    assert found.values["auc"] == pytest.approx(auc, abs=1e-6)
    assert found.margin("auc") > 0
    assert {group.by for group in found.slices} == {("shop.name`s",), ("rows.of`age",)}
    assert sum(one.rows for one in found.slices.values()) == 2 * len(rows)

    lake = lake_of(raw)
    Registry(settings, lake).promote(model, "night-1")
    score.run(settings, spark, run_id="score-1", dates=[DS])
    predicted = lake.table("predictions").read_arrow().to_pylist()
    assert len(predicted) == 600
    texts = [json.dumps(dict(zip(NAMES, line.split(","), strict=True))) for line in lines]
    served = [
        {"ds": DS, "raw": text, "score": one["score"], "model_version": model}
        for text, one in zip(texts, sorted(predicted, key=lambda one: one["visit.no"]), strict=True)
    ]
    served[0]["score"] += 0.5
    lake.table("served").append(pa.Table.from_pylist(served, schema=SERVED))
    agreement = report_served(settings, spark, [DS]).agreement
    assert agreement is not None
    assert (agreement.equal, agreement.different) == (599, 1)
    assert agreement.named[0][0].startswith("visit.no=")


def test_names_of_our_own_are_refused() -> None:
    fields = (*ODD.fields, Carried("__label", "amount", "double"))
    with pytest.raises(DeclarationError, match="__label"):
        replace(ODD, fields=fields)
