"""Metrics: equal to scikit-learn's, the same bits in any order, refused where undefined."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from sklearn import metrics as sk

from jobs.base.errors import DataRefused
from jobs.evaluate.measure.metrics import measure
from jobs.evaluate.measure.sums import SCORE_EPSILON
from schemas.field import Task

Columns = dict[str, np.ndarray]


def _binary_rows(rows: int, seed: int = 3, distinct: int | None = None) -> Columns:
    """Scores of a useful, badly calibrated model; `distinct` makes ties."""
    draw = np.random.default_rng(seed)
    label = (draw.random(rows) < 0.3).astype(np.float32)
    score = 1 / (1 + np.exp(-(draw.normal(size=rows) * 2 + 2 * label - 3)))
    if distinct:
        score = np.round(score * distinct) / distinct
    weight = draw.choice([0.1, 1.0, 2.5, 1e3], rows)
    return {
        "score": score.astype(np.float32),
        "label": label,
        "weight": weight.astype(np.float32),
    }


def _frame(spark: SparkSession, columns: Columns, partitions: int = 2) -> DataFrame:
    rows = [tuple(float(v) for v in row) for row in zip(*columns.values(), strict=True)]
    frame = spark.createDataFrame(rows, "score double, label double, weight double")
    return frame.repartition(partitions)


def _of_sklearn(columns: Columns) -> dict[str, float]:
    s, y, w = (columns[name].astype(np.float64) for name in ("score", "label", "weight"))
    clipped = np.clip(s, SCORE_EPSILON, 1 - SCORE_EPSILON)
    return {
        "auc": sk.roc_auc_score(y, s, sample_weight=w),
        "pr_auc": sk.average_precision_score(y, s, sample_weight=w),
        "f1": sk.f1_score(y, s >= 0.5, sample_weight=w),
        "log_loss": sk.log_loss(y, clipped, sample_weight=w),
        "brier": sk.brier_score_loss(y, s, sample_weight=w),
        "accuracy": sk.accuracy_score(y, s >= 0.5, sample_weight=w),
        "base_rate": np.average(y, weights=w),
        "mean_score": np.average(s, weights=w),
    }


@pytest.mark.parametrize("distinct", [None, 50, 1], ids=["no ties", "ties", "two scores"])
def test_equal_to_scikit_learn(spark: SparkSession, distinct: int | None) -> None:
    columns = _binary_rows(20_000, distinct=distinct)

    found = measure(_frame(spark, columns), "binary", "rows")

    for name, expected in _of_sklearn(columns).items():
        assert found.values[name] == pytest.approx(expected, abs=1e-9), name
    assert found.rows == 20_000
    assert found.weight == pytest.approx(columns["weight"].astype(np.float64).sum(), abs=1e-6)


def test_rare_events_with_tiny_scores(spark: SparkSession) -> None:
    columns = _binary_rows(5_000)
    columns["score"] = (columns["score"].astype(np.float64) ** 4 * 1e-4).astype(np.float32)

    found = measure(_frame(spark, columns), "binary", "rows")

    for name, expected in _of_sklearn(columns).items():
        assert found.values[name] == pytest.approx(expected, abs=1e-9), name


def test_same_bits_at_any_number_of_partitions(spark: SparkSession) -> None:
    columns = _binary_rows(5_000, distinct=700)
    backwards = {name: values[::-1] for name, values in columns.items()}

    found = [measure(_frame(spark, columns, n), "binary", "rows") for n in (1, 2, 7)]
    found.append(measure(_frame(spark, backwards, 3), "binary", "rows"))

    assert all(other == found[0] for other in found[1:])


def test_calibration_bins_and_their_error(spark: SparkSession) -> None:
    columns = _binary_rows(5_000)
    s, y, w = (columns[name].astype(np.float64) for name in ("score", "label", "weight"))
    bin_of = np.minimum((s * 10).astype(int), 9)

    found = measure(_frame(spark, columns), "binary", "rows", bins=10)

    assert [b.low for b in found.calibration] == [i / 10 for i in sorted(set(bin_of))]
    error = 0.0
    for b in found.calibration:
        inside = bin_of == round(b.low * 10)
        assert b.rows == inside.sum()
        assert b.mean_score == pytest.approx(np.average(s[inside], weights=w[inside]), abs=1e-9)
        assert b.mean_label == pytest.approx(np.average(y[inside], weights=w[inside]), abs=1e-9)
        error += w[inside].sum() * abs(np.average(s[inside] - y[inside], weights=w[inside]))
    assert found.values["ece"] == pytest.approx(error / w.sum(), abs=1e-9)


def test_roc_curve_is_short_and_lies_on_the_exact_one(spark: SparkSession) -> None:
    columns = _binary_rows(20_000)
    curve = sk.roc_curve(
        columns["label"],
        columns["score"],
        sample_weight=columns["weight"],
        drop_intermediate=False,
    )
    exact = np.stack(curve[:2], axis=1)

    roc = np.array(measure(_frame(spark, columns), "binary", "rows").roc)

    assert tuple(roc[0]) == (0, 0)
    assert tuple(roc[-1]) == (1, 1)
    assert len(roc) <= 202
    assert np.all(np.diff(roc, axis=0) >= 0)
    distance = np.abs(roc[:, None] - exact[None]).max(axis=2).min(axis=1)
    assert distance.max() < 1e-6


def test_histogram_adds_up_by_label(spark: SparkSession) -> None:
    columns = _binary_rows(2_000)
    s, y, w = (columns[name].astype(np.float64) for name in ("score", "label", "weight"))

    histogram = np.array(measure(_frame(spark, columns), "binary", "rows").histogram)

    for label in (0, 1):
        mine = y == label
        expected = np.histogram(s[mine], 32, (0, 1), weights=w[mine])[0] / w[mine].sum()
        assert histogram[:, label] == pytest.approx(expected, abs=1e-9)


def test_regression(spark: SparkSession) -> None:
    draw = np.random.default_rng(5)
    label = draw.normal(1e5, 3e4, 4_000).astype(np.float32)
    columns = {
        "score": (label + draw.normal(0, 500, 4_000)).astype(np.float32),
        "label": label,
        "weight": draw.uniform(0.5, 2, 4_000).astype(np.float32),
    }
    s, y, w = (columns[name].astype(np.float64) for name in ("score", "label", "weight"))

    found = [measure(_frame(spark, columns, n), "regression", "rows") for n in (1, 7)]

    rmse = sk.root_mean_squared_error(y, s, sample_weight=w)
    assert found[0].values["rmse"] == pytest.approx(rmse, rel=1e-9)
    mae = sk.mean_absolute_error(y, s, sample_weight=w)
    assert found[0].values["mae"] == pytest.approx(mae, rel=1e-9)
    r2 = sk.r2_score(y, s, sample_weight=w)
    assert found[0].values["r2"] == pytest.approx(r2, rel=1e-9)
    assert found[0] == found[1]


@pytest.mark.parametrize("unit", [1e-15, 1e30])
@pytest.mark.parametrize("mean", [0.0, 1e5])
def test_regression_is_as_exact_in_any_unit(spark: SparkSession, unit: float, mean: float) -> None:
    """Of labels that hardly differ from each other, too, and their intervals are."""
    draw = np.random.default_rng(6)
    label = (draw.normal(mean, 1, 2_000) * unit).astype(np.float32).astype(float)
    score = (label + draw.normal(0, 0.2, 2_000) * unit).astype(np.float32).astype(float)
    block = np.arange(2_000) % 50
    rows = [(float(s), float(y), 1.0, int(b)) for s, y, b in zip(score, label, block, strict=True)]
    frame = spark.createDataFrame(rows, "score double, label double, weight double, block int")

    found = measure(frame, "regression", "rows")

    rmse = sk.root_mean_squared_error(label / unit, score / unit) * unit
    assert found.values["rmse"] == pytest.approx(rmse, rel=1e-9, abs=0)
    mae = sk.mean_absolute_error(label / unit, score / unit) * unit
    assert found.values["mae"] == pytest.approx(mae, rel=1e-9, abs=0)
    assert found.values["mean_label"] == pytest.approx(label.mean(), rel=1e-9, abs=0)
    parts = [(label[block != b] / unit, score[block != b] / unit) for b in range(50)]
    assert found.values["r2"] == pytest.approx(sk.r2_score(label / unit, score / unit), rel=1e-9)
    expected = np.array([sk.r2_score(y, s) for y, s in parts])
    assert found.replicates["r2"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("unit", [1e-30, 1e20])
def test_weights_may_have_any_unit(spark: SparkSession, unit: float) -> None:
    columns = _binary_rows(2_000)
    expected = measure(_frame(spark, columns), "binary", "rows")

    found = measure(
        _frame(spark, {**columns, "weight": columns["weight"] * unit}), "binary", "rows"
    )

    for name, value in expected.values.items():
        assert found.values[name] == pytest.approx(value, rel=1e-6), name
    assert found.weight == pytest.approx(expected.weight * unit, rel=1e-6, abs=0)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_weights_of_one_need_no_looking_at(spark: SparkSession, task: Task) -> None:
    columns = _binary_rows(2_000)
    rows = _frame(spark, {**columns, "weight": np.ones(2_000)})
    found, expected = (measure(rows, task, "rows", is_weighted=own) for own in (False, True))
    assert found.values == expected.values
    assert (found.weight, found.calibration) == (expected.weight, expected.calibration)


def _one(score: float = 0.5, label: float = 1.0, weight: float = 1.0) -> Columns:
    return {
        "score": np.array([0.2, score]),
        "label": np.array([0.0, label]),
        "weight": np.array([1.0, weight]),
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (_one(label=0.0), "split 'test' has one class only: the label of all 2 rows is 0"),
        (_one(score=float("nan")), "split 'test': 1 rows have no finite score"),
        (_one(score=1.5), "split 'test': 1 rows have a score outside"),
        (_one(label=float("nan")), "split 'test': 1 rows have no finite label"),
        (_one(label=2.0), "split 'test': 1 rows have a label other than 0 and 1"),
        (_one(weight=0.0), "split 'test': 1 rows have no weight above 0"),
        (_one(weight=float("inf")), "split 'test': 1 rows have no weight above 0"),
        (_one(weight=1e-18), "split 'test': weights from 1e-18 to 1 are too far apart"),
        ({name: values[:0] for name, values in _one().items()}, "split 'test' has no rows"),
    ],
)
def test_undefined_metrics_are_refused_by_name(
    spark: SparkSession, columns: Columns, message: str
) -> None:
    with pytest.raises(DataRefused, match=message):
        measure(_frame(spark, columns), "binary", "split 'test'")


def test_a_missing_score_is_refused(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(None, 1.0, 1.0)], "score double, label double, weight double")

    with pytest.raises(DataRefused, match="1 rows have no finite score"):
        measure(frame, "regression", "rows")


def test_one_shuffle_of_the_scores_and_no_single_partition(spark: SparkSession) -> None:
    from jobs.evaluate.measure.metrics import _by_slice
    from jobs.evaluate.measure.ranking import counts_by_score
    from jobs.evaluate.measure.scale import Scaling

    frame = _by_slice(_frame(spark, _binary_rows(100)), Scaling())

    plan = counts_by_score(frame)._jdf.queryExecution().executedPlan().toString()

    initial = plan.split("== Initial Plan ==")[-1]
    # One of the two is that of the test's own repartition.
    assert initial.count("Exchange") == 2, initial
    assert "SinglePartition" not in initial
