"""Law 3: vocabularies and statistics come from train rows alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs.lake.state import State, load_state
from schemas.field import FIRST_OOV_ID
from tests.builders.lakes import example_rows, examples_of, lake_of, run_etl
from tests.builders.visits import VISITS, Raw, rows_of

DS = "2024-01-01"


def state_of(raw: Raw) -> State:
    return load_state(lake_of(raw), examples_of(raw).info["states"][DS])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    raw = Raw(tmp_path_factory.mktemp("plain")).add(rows_of(DS, 200)).write()
    run_etl(raw, spark, [DS])
    return raw


def visits_of(raw: Raw, *splits: str) -> set[int]:
    rows = example_rows(raw)
    return set(rows["visit"][rows["split"].isin(splits)])


def changed(raw: Raw, folder: Path, visits: set[int]) -> Raw:
    """The same lines, those of the visits with a new shop and an extreme amount."""
    lines = []
    for line in raw.lines:
        ds, visit, shop, amount, *rest = line.split(",")
        if int(visit) in visits:
            shop, amount = "only_here", "999999999.0"
        lines.append(",".join([ds, visit, shop, amount, *rest]))
    return Raw(folder).add(lines).write()


def test_what_only_val_and_test_rows_hold_leaves_the_state_as_it_was(
    plain: Raw, tmp_path: Path, spark: SparkSession
) -> None:
    raw = changed(plain, tmp_path, visits_of(plain, "val", "test"))
    run_etl(raw, spark, [DS])
    assert state_of(raw).digest == state_of(plain).digest
    rows = example_rows(raw)
    unseen = rows["shop_id"][rows["split"] != "train"]
    assert len(unseen) > 10
    assert unseen.between(FIRST_OOV_ID, FIRST_OOV_ID + 2).all()


def test_what_a_train_row_holds_changes_the_state(
    plain: Raw, tmp_path: Path, spark: SparkSession
) -> None:
    raw = changed(plain, tmp_path, set(list(visits_of(plain, "train"))[:2]))
    run_etl(raw, spark, [DS])
    assert state_of(raw).digest != state_of(plain).digest


def test_the_state_is_that_of_the_train_rows(plain: Raw) -> None:
    rows = example_rows(plain)
    train = rows[rows["split"] == "train"]
    state = state_of(plain)
    for f in VISITS.numeric:
        values = train[f.name].dropna().astype("float64")
        stats = state.numeric[f.name]
        assert (stats.count, stats.nulls) == (len(values), int(train[f.name].isna().sum()))
        np.testing.assert_allclose(stats.mean, values.mean(), rtol=1e-12)
        np.testing.assert_allclose(stats.std, values.std(ddof=0), rtol=1e-9)
        assert (stats.min, stats.max) == (values.min(), values.max())
    assert state.vocabulary["shop_id"].entries == 4
