"""Slices and intervals: each slice's metrics are those of its rows, and errors are honest."""

from __future__ import annotations

import math
import random

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession
from sklearn import metrics as sk

from jobs.base.errors import ConfigError
from jobs.evaluate.measure.group import Group
from jobs.evaluate.measure.jackknife import BLOCKS, margin, standard_error
from jobs.evaluate.measure.metrics import measure
from jobs.evaluate.measure.ranking import rank
from jobs.evaluate.measure.slices import check_slices, with_slices
from jobs.settings.evaluate import EvaluateSettings, SliceSettings
from tests.builders.visits import VISITS

ROWS = 8_000


def _rows(seed: int = 3) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    label = (draw.random(ROWS) < 0.3).astype(float)
    logit = draw.normal(size=ROWS) + label - 1
    shop = draw.choice(["a", "b", "rare"], ROWS, p=[0.6, 0.395, 0.005])
    return pd.DataFrame(
        {
            "score": (1 / (1 + np.exp(-logit))).astype(np.float32).astype(float),
            "label": np.where(shop == "rare", 0.0, label),
            "weight": draw.choice([0.5, 1.0, 3.0], ROWS),
            "block": draw.integers(0, BLOCKS, ROWS).astype(np.int32),
            "slices": [[f'[["shop"],["{name}"]]'] for name in shop],
        }
    )


def _auc(rows: pd.DataFrame) -> float:
    return float(sk.roc_auc_score(rows["label"], rows["score"], sample_weight=rows["weight"]))


def test_slices_and_intervals_equal_scikit_learn(spark: SparkSession) -> None:
    rows = _rows()

    found = measure(spark.createDataFrame(rows), "binary", "rows")

    assert set(map(str, found.slices)) == {"shop=a", "shop=b", "shop=rare"}
    for group, measured in found.slices.items():
        name = str(group)
        mine = rows[rows["slices"].map(lambda keys, group=group: Group.of_key(keys[0]) == group)]
        assert measured.rows == len(mine)
        if name == "shop=rare":
            # One class only: not defined, and not 0.
            assert math.isnan(measured.values["auc"])
            continue
        assert measured.values["auc"] == pytest.approx(_auc(mine), abs=1e-9)
        loss = sk.log_loss(mine["label"], mine["score"], sample_weight=mine["weight"])
        assert measured.values["log_loss"] == pytest.approx(loss, abs=1e-9)
    without = [rows[rows["block"] != block] for block in range(BLOCKS)]
    exact = np.array([_auc(part) for part in without])
    assert standard_error(found.replicates["auc"]) == pytest.approx(standard_error(exact), rel=0.02)
    briers = [
        sk.brier_score_loss(part["label"], part["score"], sample_weight=part["weight"])
        for part in without
    ]
    assert found.replicates["brier"] == pytest.approx(np.array(briers), abs=1e-12)


def test_the_error_is_that_of_other_samples() -> None:
    """Over many samples of a mean, the jackknife's error is the deviation of the means."""
    draw = np.random.default_rng(5)
    samples = draw.exponential(size=(400, BLOCKS, 40))
    without = (samples.sum(axis=(1, 2))[:, None] - samples.sum(axis=2)) / ((BLOCKS - 1) * 40)

    errors = [standard_error(one) for one in without]

    assert np.mean(errors) == pytest.approx(np.std(samples.mean(axis=(1, 2))), rel=0.1)
    inside = [abs(s.mean() - 1) <= margin(w, 0.95) for s, w in zip(samples, without, strict=True)]
    assert 0.91 < np.mean(inside) < 0.98
    assert math.isnan(standard_error(np.array([0.5])))


def test_binned_areas_state_their_error(spark: SparkSession) -> None:
    rows = _rows().drop(columns=["slices", "block"])
    # Few blocks of scores, so that many rows are tied.
    rows["score"] = (rows["score"] * 1e-2 + 0.5).astype(np.float32).astype(float)

    found = measure(spark.createDataFrame(rows), "binary", "rows", exact=False)

    error = found.values["auc_error"]
    assert 0.001 < error < 0.2
    assert abs(found.values["auc"] - _auc(rows)) <= error
    assert "pr_auc" not in found.values


def test_the_areas_of_a_perfect_order_are_one(spark: SparkSession) -> None:
    """The terms of the AUC, each rounded, add up to 1.0000000000000002."""
    draw = random.Random(9)
    weights = [draw.random() for _ in range(draw.randint(2, 60))]
    rows = [("all", (i + 40.0) / 100, 1.0, w) for i, w in enumerate(weights)]
    scored = spark.createDataFrame(
        [("all", 0.25, 0.0, 1.0), *rows], "slice string, score double, label double, weight double"
    )

    ranking = rank(scored)["all"]

    assert (ranking.auc, ranking.pr_auc) == (1.0, 1.0)


def _groups(rows: DataFrame) -> list[list[str]]:
    return [[str(Group.of_key(key)) for key in row["__slices"]] for row in rows.collect()]


def test_groups_are_told_apart_by_their_values_alone(spark: SparkSession) -> None:
    shops = ["York, NY", "York", "a=b", "a x b", 'q"q', "a\nb", "", " ", "(other)", "(null)", None]
    rows = spark.createDataFrame([(shop, 1.0) for shop in shops], "shop string, age_years double")
    slices = [SliceSettings.model_validate("shop")]

    found = with_slices(rows, slices, most_values=20).collect()

    groups = [Group.of_key(row["__slices"][0]) for row in found]
    assert groups == [Group(("shop",), (shop,)) for shop in shops]
    kept = with_slices(rows, slices, most_values=2).collect()
    rest = Group(("shop",), None)
    assert [Group.of_key(row["__slices"][0]) for row in kept].count(rest) == len(shops) - 2


def test_groups_buckets_crosses_and_the_rest(spark: SparkSession) -> None:
    shops = ["a"] * 5 + ["b"] * 4 + ["c", None]
    rows = spark.createDataFrame(
        [(shop, float(i) if i else None) for i, shop in enumerate(shops)],
        "shop string, age_years double",
    )
    slices = [
        SliceSettings.model_validate("shop"),
        SliceSettings(by=("age_years",), buckets={"age_years": (3, 8)}),
    ]

    found = _groups(with_slices(rows, slices, most_values=2))

    assert [groups[0] for groups in found] == [
        *["shop=a"] * 5,
        *["shop=b"] * 4,
        *["shop=(other)"] * 2,
    ]
    assert [groups[1] for groups in found] == [
        "age_years=(other)",
        *["age_years=(other)"] * 2,
        *["age_years=3..8"] * 5,
        *["age_years=>=8"] * 3,
    ]
    crossed = [SliceSettings(by=("shop", "age_years"), buckets={"age_years": (3,)})]
    names = {groups[0] for groups in _groups(with_slices(rows, crossed, 20))}
    assert {"shop=a,age_years=<3", "shop=b,age_years=>=3", "shop=a,age_years=(null)"} <= names


def test_two_bucketings_of_a_column_have_groups_of_their_own(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("a", age) for age in (0.5, 3.0, 9.0)], "shop string, age double")
    slices = [SliceSettings(by=("age",), buckets={"age": edges}) for edges in ((1, 2), (1, 5))]
    near = SliceSettings(by=("age",), buckets={"age": (0.1, 3, 3.0000001)})

    found = _groups(with_slices(rows, [*slices, near], 20))

    assert found[0] == ["age[1|2]=<1", "age[1|5]=<1", "age[0.1|3|3.0000001]=0.1..3"]
    assert found[1][2] == "age[0.1|3|3.0000001]=3..3.0000001"
    alone = [groups[0] for groups in _groups(with_slices(rows, slices[1:], 20))]
    assert alone == ["age=<1", "age=1..5", "age=>=5"]


def test_a_slice_is_declared_once() -> None:
    with pytest.raises(ValidationError, match="slice 'shop' is declared twice"):
        EvaluateSettings.model_validate({"slices": ["shop", {"by": ["shop"]}]})


def test_a_column_that_is_not_stored_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'shop_id' of slice 'shop_id'[\s\S]*Carried"):
        check_slices(VISITS, [SliceSettings.model_validate("shop_id")])
