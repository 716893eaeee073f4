"""Warm start: before its first step the new model scores as its source does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyspark.sql import SparkSession
from torch import Tensor, nn

from jobs.errors import ConfigError, DataRefused
from jobs.etl.encode import encode
from jobs.etl.job import source_paths
from jobs.etl.states import state_entries
from jobs.etl.validate import checked_rows
from jobs.settings import load_settings
from jobs.state import load_state
from jobs.train import job
from jobs.train.artifact import load_model, save_model
from jobs.train.batch import Batch, batch_from_arrow
from jobs.train.models import Model, ModelSpec, build_model, predict
from jobs.train.warm_start import WarmStart, warm
from tests.builders.batches import SPEC, batch_of
from tests.builders.lakes import lake_of, run_etl
from tests.builders.models import register_model
from tests.builders.visits import VISITS, Raw, rows_of

FIRST, SECOND = "2024-01-01", "2024-01-02"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    """The second date has 10,000 rows, values that the first lacks, and other amounts."""
    raw = Raw(tmp_path_factory.mktemp("warm"))
    raw.add(rows_of(FIRST, 300))
    new = rows_of(SECOND, 10_000, shops=[*"abcd", *(f"new{i}" for i in range(40))])
    raw.add(line.replace(",1.5,", ",900.5,") for line in new)
    raw.write()
    run_etl(raw, spark, [FIRST, SECOND])
    register_model(load_settings(raw.config), FIRST)
    return raw


def scores(raw: Raw, spark: SparkSession, folder: str, as_of: str) -> np.ndarray:
    """Of the second date's raw rows, encoded with the model's own state."""
    settings = load_settings(raw.config)
    loaded = load_model(folder)
    state = load_state(lake_of(raw), loaded.spec.state)
    rows = checked_rows(spark, VISITS, source_paths(settings, VISITS), [SECOND], with_label=True)
    encoded = encode(rows, VISITS, state_entries(spark, lake_of(raw), state), as_of)
    table = encoded.orderBy("row_id").toArrow()
    return predict(loaded.model, batch_from_arrow(table, VISITS)).numpy()


def test_the_new_model_scores_as_its_source_before_its_first_step(
    raw: Raw, spark: SparkSession
) -> None:
    settings = load_settings(
        raw.config,
        # A rate that moves nothing: what is registered is what training started with.
        ["train.warm_start=1", "train.learning_rate=1e-30", "train.epochs=1"],
    )
    result = job.run(settings, spark, run_id="train-warm")
    source = lake_of(raw).folder("models", "")
    folder = next(str(path) for path in Path(source).iterdir() if str(path) != result.folder)
    before, after = load_model(folder).spec, load_model(result.folder).spec
    sizes = zip(before.table_rows, after.table_rows, strict=True)
    assert any(rows < now for rows, now in sizes)
    assert after.means == before.means
    assert (
        after.means
        != ModelSpec.of(VISITS, load_state(lake_of(raw), after.state), settings.train).means
    ), "the statistics moved"

    expected = scores(raw, spark, folder, FIRST)
    found = scores(raw, spark, result.folder, SECOND)
    assert len(found) == 10_000
    assert expected.std() > 0.01
    assert np.abs(found - expected).max() < 1e-5


def test_before_there_is_a_champion_training_starts_afresh(raw: Raw, spark: SparkSession) -> None:
    settings = load_settings(raw.config, ["train.warm_start=champion", "train.epochs=1"])
    assert job.run(settings, spark, run_id="train-first").history


def test_another_model_and_a_missing_version_are_refused(raw: Raw, spark: SparkSession) -> None:
    for overrides, error, message in (
        (["train.warm_start=77"], DataRefused, "77"),
        (["train.warm_start=1", "train.hidden=[9]"], ConfigError, "another hidden"),
        (["train.warm_start=1", "train.model=mlp"], ConfigError, r"another train\.model"),
    ):
        with pytest.raises(error, match=message):
            job.run(load_settings(raw.config, overrides), spark, run_id="train-refused")


# Tables of other models


class OwnTables(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.table = nn.Embedding(spec.table_rows[1], 1)

    def forward(self, batch: Batch) -> Tensor:
        logits: Tensor = self.table(batch.sparse[:, 1]).squeeze(1)
        return logits


def grown(name: str, folder: Path) -> tuple[Model, Model, WarmStart]:
    """A model, and one warmed by it with three more ids in the second field: 50 to 52."""
    source = build_model(name, SPEC)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    save_model(str(folder), source, name, SPEC, {})
    ids = np.arange(53, dtype=np.int32)
    ids[50:] = [2, 3, 2]
    start = WarmStart("1", str(folder), ("a", "b", "c"), {"b": ids})
    spec = replace(SPEC, table_rows=(7, 53, 5))
    model = build_model(name, spec)
    warm(model, spec, start)
    return source, model, start


@pytest.mark.parametrize(
    "name", ["mlp", "wide_deep", "dlrm", "dcn_v2", "tests.train.test_warm_start:OwnTables"]
)
def test_tables_of_every_model_grow(name: str, tmp_path: Path) -> None:
    source, model, start = grown(name, tmp_path / "model")
    batch = batch_of(200, seed=1, spec=replace(SPEC, table_rows=(7, 53, 5)))
    assert (batch.sparse[:, 1] >= 50).any()
    sparse = batch.sparse.clone()
    sparse[:, 1] = torch.from_numpy(start.id_maps["b"])[sparse[:, 1]].long()
    assert torch.equal(predict(model, batch), predict(source, replace(batch, sparse=sparse)))


class OneTable(nn.Module):
    """A table for all fields."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(spec.table_rows), 1)


def test_a_table_that_belongs_to_no_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"net\.table.* from 62 to 65 rows"):
        grown("tests.train.test_warm_start:OneTable", tmp_path / "model")
