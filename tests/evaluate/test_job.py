"""Evaluation: a registered model on held-out rows, and the champion on the same rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession
from sklearn import metrics as sk

from jobs.base.errors import DataRefused
from jobs.evaluate import job
from jobs.lake.lake import Lake
from jobs.lake.ledger import read_ledger
from jobs.registry.registry import Registry
from jobs.settings.settings import Settings
from schemas.dataset import Dataset
from schemas.field import Numeric
from tests.builders.lakes import example_rows
from tests.builders.models import register_model, scores_of
from tests.builders.visits import VISITS
from tests.evaluate.conftest import FIRST, SECOND, Line


def _lake(line: Line) -> Lake:
    return Lake(line.settings.lake_url, "visits")


def _test_rows(line: Line, first: str = FIRST, last: str = SECOND) -> pd.DataFrame:
    rows = example_rows(line.raw)
    return rows[(rows["split"] == "test") & rows["ds"].between(first, last)]


def test_a_model_is_measured_on_its_test_rows(spark: SparkSession, line: Line) -> None:
    rows = _test_rows(line)
    expected = scores_of(line.settings, line.model, rows)

    found = job.run(line.settings, spark, run_id="evaluate-1", model=line.model)

    assert found.metrics.rows == len(rows) > 40
    auc = sk.roc_auc_score(rows["label"], expected)
    assert found.metrics.values["auc"] == pytest.approx(auc, abs=1e-6)
    loss = sk.log_loss(rows["label"], expected.astype(float))
    assert found.metrics.values["log_loss"] == pytest.approx(loss, abs=1e-6)
    assert "auc 0." in found.summary()

    (row,) = read_ledger(_lake(line), run="evaluate-1")
    assert (row["stage"], row["ds"], row["status"]) == ("evaluate", SECOND, "done")
    assert row["counts"] == {"rows": len(rows)}
    assert row["metrics"] == found.metrics.values
    page = Path(found.report_url).read_text(encoding="utf-8")
    assert f"{len(rows):,} rows" in page
    assert "Training: loss" in page
    registry = Registry(line.settings, _lake(line))
    logged = registry._client.mlflow.get_run(found.model.mlflow_run).data.metrics
    assert logged["eval.test.auc"] == found.metrics.values["auc"]


def test_given_dates_are_measured(spark: SparkSession, line: Line) -> None:
    found = job.run(
        line.settings, spark, run_id="evaluate-2", model=line.model, dates=(SECOND, SECOND)
    )

    assert found.metrics.rows == len(_test_rows(line, SECOND))
    assert str(found.selection) == f"split 'test' of {SECOND}..{SECOND}"


def test_a_champion_of_an_older_state_is_measured_on_the_same_rows(
    spark: SparkSession, line: Line
) -> None:
    registry = Registry(line.settings, _lake(line))
    older = register_model(line.settings, FIRST, seed=5)
    registry.promote(older, "nightly-1")

    found = job.compare(line.settings, spark, run_id="gate-1", challenger=line.model)

    assert found.champion is not None
    assert found.champion.version == older
    assert found.champion.selection == found.challenger.selection
    rows = _test_rows(line)
    assert found.champion.metrics.rows == found.challenger.metrics.rows == len(rows)
    # Shops c and d came on the second date: to the older model they are unseen values.
    known = registry.resolve(older).tags["state_digest"]
    assert known != registry.resolve(line.model).tags["state_digest"]
    ids = pd.read_parquet(_lake(line).table("id_log").url)
    unseen = ids[(ids["field"] == "shop_id") & (ids["from_ds"] == SECOND)]
    assert set(unseen["value"]) == {"c", "d"}
    buckets = _buckets(spark, list(unseen["value"]))
    own = rows.assign(
        shop_id=rows["shop_id"]
        .replace({row.id: buckets[row.value] for row in unseen.itertuples()})
        .astype("int32")
    )
    auc = sk.roc_auc_score(rows["label"], scores_of(line.settings, older, own))
    assert found.champion.metrics.values["auc"] == pytest.approx(auc, abs=1e-6)

    gate = [row for row in read_ledger(_lake(line), run="gate-1") if row["stage"] == "gate"]
    assert [row["status"] for row in gate] == ["done" if found.verdict.passed else "refused"]
    assert "Gate:" in Path(found.challenger.report_url).read_text(encoding="utf-8")


def test_the_champion_is_judged_again_against_the_one_it_replaced(
    spark: SparkSession, line: Line
) -> None:
    registry = Registry(line.settings, _lake(line))
    older, newer = (register_model(line.settings, FIRST, seed=seed) for seed in (5, 6))
    registry.promote(older, "nightly-1")
    before = job.compare(line.settings, spark, run_id="gate-2", challenger=newer)
    registry.promote(newer, "nightly-2")

    again = job.compare(line.settings, spark, run_id="gate-3", challenger=newer)

    assert again.verdict == before.verdict
    assert again.champion is not None and again.champion.version == older


def test_the_gate_judges_by_the_engine_that_will_score(spark: SparkSession, line: Line) -> None:
    """An export of other weights is what the gate measures, and no model that torch would run."""
    score = line.settings.score.model_copy(update={"engine": "onnx"})
    settings = line.settings.model_copy(update={"score": score})
    other = register_model(settings, SECOND, seed=11)
    urls = []
    results = []
    for version in (line.model, other):
        results.append(job.run(settings, spark, run_id=f"onnx-{version}", model=version))
        digest = Registry(settings, _lake(line)).resolve(version).digest
        urls += Path(_lake(line).folder("exports", digest)).glob("*/model.onnx")
    (before, wanted), (ours, theirs) = results, urls
    content = ours.read_bytes()
    ours.write_bytes(theirs.read_bytes())
    try:
        found = job.run(settings, spark, run_id="evaluate-onnx-5", model=line.model)
    finally:
        ours.write_bytes(content)

    assert found.metrics.values == wanted.metrics.values != before.metrics.values


def _buckets(spark: SparkSession, values: list[str]) -> dict[str, int]:
    """Id of each value where it has no entry: 2 + hash mod 3 buckets."""
    rows = spark.createDataFrame([(v,) for v in values], "v string")
    return {r["v"]: r["id"] for r in rows.selectExpr("v", "2 + pmod(xxhash64(v), 3) id").collect()}


def test_absent_rows_are_refused_by_name(spark: SparkSession, line: Line) -> None:
    with pytest.raises(DataRefused, match=r"split 'test' of 2023-01-01\.\.2023-01-02 has no rows"):
        job.run(line.settings, spark, run_id="evaluate-3", dates=("2023-01-01", "2023-01-02"))
    evaluate = line.settings.evaluate.model_copy(update={"split": "holdout"})
    settings = line.settings.model_copy(update={"evaluate": evaluate})
    with pytest.raises(DataRefused, match="split 'holdout' of"):
        job.run(settings, spark, run_id="evaluate-4")


OTHER: Dataset = replace(
    VISITS,
    fields=tuple(
        Numeric("age_years", "age * 2") if f.name == "age_years" else f for f in VISITS.fields
    ),
)


def _with_declaration(settings: Settings, reference: str) -> Settings:
    return settings.model_copy(update={"declaration": reference})


def test_a_changed_declaration_is_refused_naming_the_fields(
    spark: SparkSession, line: Line
) -> None:
    settings = _with_declaration(line.settings, "tests.evaluate.test_job:OTHER")

    with pytest.raises(DataRefused, match="another declaration of 'visits': fields age_years"):
        job.run(settings, spark, run_id="evaluate-5", model=line.model)
