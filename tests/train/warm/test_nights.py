"""Nights whose training starts from the champion, with sharded tables and new values each night."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs.main import main
from jobs.models.stored import read_moments
from jobs.registry.registry import Registry
from jobs.registry.version import ModelVersion
from jobs.settings.load import load_settings
from tests.builders.lakes import lake_of
from tests.builders.visits import Raw, rows_of
from tests.train.warm.test_warm_start import FIRST, SECOND, scores

TRAIN = {"warm_start": "champion", "tables": "sharded", "table_buckets": 5, "workers": 2}


def champion_of(raw: Raw) -> ModelVersion:
    found = Registry(load_settings(raw.config), lake_of(raw)).champion()
    assert found is not None
    return found


def night(raw: Raw, ds: str, *overrides: str) -> None:
    """A night whose model becomes the champion, whatever its quality."""
    gate = "gate.rules=[{metric: auc, min_value: 0.0, min_rows: 1}]"
    more = [part for override in (gate, *overrides) for part in ("--set", override)]
    assert main(["nightly", "--config", str(raw.config), "--date", ds, "--quiet", *more]) == 0


@pytest.mark.slow
def test_two_nights_with_a_growing_vocabulary(
    tmp_path: Path, spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "millstream.train")
    raw = Raw(tmp_path, settings={"train": TRAIN})
    raw.add(rows_of(FIRST, 300))
    raw.add(rows_of(SECOND, 2_000, shops=[*"abcd", *(f"new{i}" for i in range(40))])).write()
    night(raw, FIRST)
    first = champion_of(raw)
    kept = read_moments(first.folder_url)
    assert kept is not None and kept.tables, "for the next night"
    assert {files.table.ranks for files in kept.tables.values()} == {2}
    # A rate that moves nothing, and another number of ranks.
    night(raw, SECOND, "train.learning_rate=1e-30", "train.workers=1")
    second = champion_of(raw)
    assert second.version == "2" and second.tags["warm_start"] == first.version
    said = "warm start from model version 1: weights and moments go on; "
    assert any(said in line for line in caplog.messages)
    expected, found = scores(raw, first.folder_url, FIRST), scores(raw, second.folder_url, SECOND)
    assert len(found) == 2_000 and expected.std() > 1e-4
    assert np.abs(found - expected).max() < 1e-6
    predictions = lake_of(raw).table("predictions").read_arrow().to_pandas()
    assert predictions.groupby("ds")["model_version"].unique().map(list).to_dict() == {
        FIRST: ["1"],
        SECOND: ["2"],
    }
