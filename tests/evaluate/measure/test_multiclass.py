"""Metrics of a multiclass label against scikit-learn's, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import accuracy_score, log_loss

from jobs.base.errors import DataRefused
from jobs.evaluate.measure.group import Group
from jobs.evaluate.measure.metrics import measure

CLASSES = 4


def made(rows: int = 500) -> pd.DataFrame:
    random = np.random.default_rng(5)
    scores = random.dirichlet(np.ones(CLASSES), rows).astype(np.float32)
    return pd.DataFrame(
        {
            "scores": list(scores),
            "predicted_class": scores.argmax(axis=1).astype(np.int32),
            # Class 3 has no rows.
            "label": random.integers(0, 3, rows).astype(np.float32),
            "weight": random.uniform(0.1, 4, rows).astype(np.float32),
        }
    )


def as_spark(spark: SparkSession, rows: pd.DataFrame) -> DataFrame:
    schema = "scores array<float>, predicted_class int, label float, weight float"
    return spark.createDataFrame(rows, schema).withColumn("score", F.array_max("scores"))


def test_the_metrics_are_scikit_learns_in_any_order(spark: SparkSession) -> None:
    rows = made()
    y, weight = rows["label"].astype(int), rows["weight"].astype(float)
    probabilities = np.stack(rows["scores"]).astype(float)

    found = measure(as_spark(spark, rows), "multiclass", "rows")
    shuffled = as_spark(spark, rows.sample(frac=1, random_state=1)).repartition(7)

    assert measure(shuffled, "multiclass", "rows") == found
    accuracy = accuracy_score(y, rows["predicted_class"], sample_weight=weight)
    assert found.values["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    # Float32 probabilities add up to 1 only nearly; scikit-learn would scale them.
    loss = -np.average(np.log(probabilities[np.arange(len(y)), y]), weights=weight)
    assert found.values["log_loss"] == pytest.approx(loss, abs=1e-12)
    labels = list(range(CLASSES))
    scaled = probabilities / probabilities.sum(axis=1, keepdims=True)
    reference = log_loss(y, scaled, sample_weight=weight, labels=labels)
    assert found.values["log_loss"] == pytest.approx(reference, abs=1e-6)
    assert (found.rows, found.weight) == (len(rows), pytest.approx(weight.sum()))


def test_slices_are_measured_apart(spark: SparkSession) -> None:
    rows = made()
    named = as_spark(spark, rows).withColumn(
        "slices",
        F.array(F.to_json(F.array(F.array(F.lit("c")), F.array(F.col("label").cast("string"))))),
    )

    found = measure(named.withColumn("block", F.lit(0)), "multiclass", "rows")

    for label in (0, 1, 2):
        own = rows[rows["label"] == label]
        recall = np.average(own["predicted_class"] == label, weights=own["weight"].astype(float))
        assert found.slices[Group(("c",), (f"{label}.0",))].values["accuracy"] == pytest.approx(
            recall, abs=1e-12
        )


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", 4.0, "1 rows have no finite score"),
        ("label", 0.5, "1 rows have no finite score"),
        ("label", np.nan, "1 rows have no finite score"),
        ("weight", 0.0, "1 rows have no weight above 0"),
        ("scores", [np.nan] * 4, "1 rows have no finite score"),
        ("scores", [1.5] * 4, r"1 rows have a score outside \[0, 1\]"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    spark: SparkSession, column: str, value: object, message: str
) -> None:
    rows = made(20)
    rows.at[7, column] = value

    with pytest.raises(DataRefused, match=message):
        measure(as_spark(spark, rows), "multiclass", "rows")
