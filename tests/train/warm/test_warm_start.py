"""Warm start: before its first step the new model scores as its source does."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyspark.sql import SparkSession
from torch import Tensor, nn

from jobs.base.errors import ConfigError, DataRefused
from jobs.batch.batch import Batch
from jobs.batch.layout import batch_from_arrow
from jobs.etl.encode.encoder import Encoder
from jobs.etl.encode.vocabulary import stage_vocabularies
from jobs.etl.fit.states import state_entries
from jobs.lake.state import load_state
from jobs.models.artifact import load_model, save_model
from jobs.models.build import Model, build_model, predict
from jobs.models.folder import MOMENTS
from jobs.models.spec import ModelSpec
from jobs.models.stored import read_moments
from jobs.settings.load import load_settings
from jobs.settings.train import TrainSettings
from jobs.train import job
from jobs.train.exchange.exchange import Alone
from jobs.train.keep.snapshot import take
from jobs.train.step.history import Position
from jobs.train.step.moments import moments_of, parameter_names
from jobs.train.step.rowledger import RowLedger
from jobs.train.step.step import Step
from jobs.train.warm.origins import Origin
from jobs.train.warm.source import WarmStart
from jobs.train.warm.weights import warm, warm_moments
from tests.builders.batches import SPEC, batch_of
from tests.builders.devices import DEVICES
from tests.builders.lakes import lake_of, run_etl
from tests.builders.models import register_model
from tests.builders.visits import VISITS, Raw, rows_of
from tests.rows.engines import judged

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


def scores(raw: Raw, folder: str, as_of: str) -> np.ndarray:
    """Of the second date's raw rows, encoded with the model's own state."""
    loaded = load_model(folder)
    state = load_state(lake_of(raw), loaded.spec.state)
    parents = {"shops": raw.folder / "shops.csv"}
    rows = judged(VISITS, raw.folder / "visits.csv", SECOND, parents=parents).valid
    names = {f.log_name for f in VISITS.counted}
    url = str(raw.folder / "vocabularies" / state.digest)
    vocabularies = stage_vocabularies(state_entries(lake_of(raw), state), names, url)
    table = Encoder(VISITS, vocabularies, as_of)(rows).sort_by("row_id")
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

    assert read_moments(folder) is None
    kept = read_moments(result.folder)
    assert kept and any("embeddings" in name for name in kept.tensors), "for the next"

    expected = scores(raw, folder, FIRST)
    found = scores(raw, result.folder, SECOND)
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
        (["train.warm_start=1", "train.dropout=0.5"], ConfigError, "another dropout"),
        (["train.warm_start=1", "train.model=mlp"], ConfigError, r"another train\.model"),
    ):
        with pytest.raises(error, match=message):
            job.run(load_settings(raw.config, overrides), spark, run_id="train-refused")


# Tables of other models

GROWN = (7, 53, 5)


def grown_from(name: str, folder: Path) -> tuple[Model, WarmStart]:
    """A fresh model with three more ids in the second field than that in the folder: 50 to 52."""
    ids = np.arange(53, dtype=np.int32)
    ids[50:] = [2, 3, 2]
    start = WarmStart("1", str(folder), ("a", "b", "c"), {"b": ids})
    return build_model(name, replace(SPEC, table_rows=GROWN)), start


def grown(
    name: str, folder: Path, least_table_bytes: int | None = None
) -> tuple[Model, Model, WarmStart]:
    """A model, and one warmed by it."""
    source = build_model(name, SPEC)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    save_model(str(folder), source, name, SPEC, {}, least_table_bytes=least_table_bytes)
    model, start = grown_from(name, folder)
    warm(model, replace(SPEC, table_rows=GROWN), start)
    return source, model, start


@pytest.mark.parametrize(
    "name", ["mlp", "wide_deep", "dlrm", "dcn_v2", "tests.builders.models:OwnTable"]
)
@pytest.mark.parametrize("least_table_bytes", [None, 0])
def test_tables_of_every_model_grow(
    name: str, least_table_bytes: int | None, tmp_path: Path
) -> None:
    source, model, start = grown(name, tmp_path / "model", least_table_bytes)
    batch = batch_of(200, seed=1, spec=replace(SPEC, table_rows=GROWN))
    assert (batch.sparse[:, 1] >= 50).any()
    sparse = batch.sparse.clone()
    sparse[:, 1] = torch.from_numpy(start.id_maps["b"])[sparse[:, 1]].long()
    assert torch.equal(predict(model, batch), predict(source, replace(batch, sparse=sparse)))


def moments_in(step: Step) -> dict[str, Tensor]:
    snapshot = take(step, Position(), RowLedger())
    return moments_of(snapshot.optimizer, parameter_names(step))


def new_rows(origin: Origin) -> Tensor:
    """Bool [rows of the table], those of values that the source does not know."""
    is_new = torch.ones(origin.rows, dtype=torch.bool)
    origin.copy(
        torch.arange(origin.rows), is_new, lambda _, rows: torch.zeros(len(rows)), with_new=False
    )
    assert int(is_new.sum()) == origin.new
    return is_new


def stepped(step: Step, seed: int) -> Batch:
    """Takes a step over ids that the smaller tables have too."""
    batch = batch_of(60, seed=seed)
    step.run(batch)
    return batch


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("name", ["wide_deep", "dlrm", "tests.builders.models:OwnTable"])
def test_moments_go_on_and_those_of_new_rows_begin_at_zero(
    name: str, optimizer: str, device: str, tmp_path: Path
) -> None:
    settings = TrainSettings(optimizer=optimizer, learning_rate=0.1)
    source = Step(build_model(name, SPEC).to(device), settings, Alone())
    stepped(source, 1)
    card = {"optimizer": optimizer}
    save_model(str(tmp_path), source.model, name, SPEC, card, moments_in(source))
    after, start = grown_from(name, tmp_path)
    origins = warm(after, replace(SPEC, table_rows=GROWN), start)
    after.to(device)
    step, fresh = Step(after, settings, Alone()), Step(deepcopy(after), settings, Alone())
    assert [origin.new for origin in origins.values()].count(3) >= 1
    assert "weights and moments go on" in warm_moments(step, start, origins, optimizer)
    assert "those of sgd2 begin at zero" in warm_moments(fresh, start, origins, "sgd2")

    state = moments_in(step)
    for table, origin in origins.items():
        for key in ("sum", "exp_avg", "exp_avg_sq"):
            rows = state.get(f"{table}/{key}")
            assert rows is None or not rows[new_rows(origin)].any()
            assert rows is None or rows.any()
    for both in (source, step, fresh):
        batch = stepped(both, 2).to(device)
    expected = predict(source.model, batch)
    assert torch.equal(predict(step.model, batch), expected), "it went on as its source does"
    assert optimizer == "sgd" or not torch.allclose(predict(fresh.model, batch), expected)


def test_damaged_moments_are_refused(tmp_path: Path) -> None:
    model = build_model("mlp", SPEC)
    save_model(str(tmp_path), model, "mlp", SPEC, {}, {"net/sum": torch.ones(3)})
    path = tmp_path / MOMENTS
    path.write_bytes(path.read_bytes()[:-1] + b"7")
    with pytest.raises(DataRefused, match=r"optimizer\.safetensors .* have digest"):
        read_moments(str(tmp_path))
    path.unlink()
    with pytest.raises(DataRefused, match=r"optimizer\.safetensors"):
        read_moments(str(tmp_path))


class OneTable(nn.Module):
    """A table for all fields."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(spec.table_rows), 1)


def test_a_table_that_belongs_to_no_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"net\.table.* from 62 to 65 rows"):
        grown("tests.train.warm.test_warm_start:OneTable", tmp_path / "model")
