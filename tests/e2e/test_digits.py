"""scikit-learn's digits as PNG files go through the whole line: conf/digits.yaml."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.lake.lake import Lake
from jobs.lake.ledger import read_ledger
from jobs.main import main
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from tests.builders.digits import FIRST, SECOND, THIRD, configure
from tools.make_digits import make_digits


def run(config: Path, *arguments: str) -> None:
    assert main([*arguments[:1], "--config", str(config), "--quiet", *arguments[1:]]) == 0


def predictions(lake: Lake) -> pd.DataFrame:
    """With the true digit, which is the name of the image's folder."""
    found = lake.table("predictions").read_arrow().to_pandas()
    probabilities = np.stack(found["scores"])
    assert probabilities.shape == (len(found), 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), found["predicted_class"])
    np.testing.assert_array_equal(probabilities.max(axis=1), found["score"])
    return found.assign(digit=found["folder"].astype(int))


@pytest.mark.slow
def test_some_digits_in_a_night(spark: SparkSession, tmp_path: Path) -> None:
    count = make_digits(tmp_path / "raw", step=8)
    config = configure(tmp_path)
    rules = "gate.rules=[{metric: accuracy, min_value: 0.6, min_rows: 1}]"
    small = ("train.workers=1", "train.batch_rows=16", "train.epochs=30")
    overrides = (*small, "train.learning_rate=0.003", rules)

    run(config, "nightly", "--date", FIRST, *[p for o in overrides for p in ("--set", o)])

    lake = Lake(str(tmp_path / "lake"), "digits")
    found = predictions(lake)
    assert len(found) == count * 1_200 // 1_797 and set(found["ds"]) == {FIRST}
    stages = {row["stage"] for row in read_ledger(lake, status="done")}
    assert stages >= {"etl", "train", "evaluate", "gate", "score", "nightly"}


@pytest.mark.slow
def test_a_cnn_on_two_ranks_reads_more_than_nine_digits_in_ten(
    spark: SparkSession, tmp_path: Path
) -> None:
    assert make_digits(tmp_path / "raw") == 1_797
    config = configure(tmp_path)

    run(config, "etl", "--dates", f"{FIRST}..{SECOND}")
    run(config, "train", "--workers", "2")
    run(config, "evaluate")
    run(config, "score", "--date", THIRD, "--model", "latest")

    settings = load_settings(config)
    lake = Lake(settings.lake_url, "digits")
    version = Registry(settings, lake).resolve("latest").version
    measured = [row for row in read_ledger(lake, stage="evaluate") if row["status"] == "done"]
    assert measured[-1]["versions"]["model"] == version
    assert measured[-1]["metrics"]["accuracy"] > 0.93
    found = predictions(lake)
    # Other people wrote the last digits.
    assert len(found) == 297
    assert (found["predicted_class"] == found["digit"]).mean() > 0.9
