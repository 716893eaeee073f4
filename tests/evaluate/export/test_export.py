"""Export: a file gives the model's scores for any number of rows, or is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from jobs.base.errors import ConfigError, DataRefused
from jobs.batch.batch import Batch
from jobs.evaluate.export import export as exports
from jobs.evaluate.export.export import (
    FILES,
    Format,
    _maker,
    example_inputs,
    export,
    run,
    with_engine,
)
from jobs.evaluate.predict.exported import batch_of, loaded_onnx
from jobs.evaluate.predict.predict import Predictor
from jobs.lake.lake import Lake
from jobs.models.artifact import LoadedModel, load_model, save_model
from jobs.models.build import build_model, predict
from jobs.models.mlp import MLP
from jobs.models.spec import ModelSpec
from schemas.dataset import Dataset
from schemas.digits import DIGITS
from tests.builders.visits import VISITS

SPEC = ModelSpec(
    dataset="visits",
    declaration=VISITS.digest,
    state="none",
    task="binary",
    means=(0.0, 30.0, 2.0),
    stds=(1.0, 10.0, 1.0),
    table_rows=(7, 9),
    embedding_dims=(4, 4),
    tensor_shapes={},
    hidden=(8,),
    dropout=0.0,
)
IMAGES = replace(
    SPEC,
    task="multiclass",
    means=(),
    stds=(),
    table_rows=(),
    embedding_dims=(),
    tensor_shapes=DIGITS.input_sizes().tensor_shapes,
    classes=10,
)


def _model(name: str, spec: ModelSpec = SPEC) -> LoadedModel:
    torch.manual_seed(0)
    model = build_model(name, spec)
    for weights in model.parameters():
        nn.init.normal_(weights, 0, 0.5)
    return LoadedModel(model.eval(), spec, {"model": name}, "0" * 32, {})


@pytest.mark.parametrize("format_", ["onnx", "torchscript"])
@pytest.mark.parametrize("name", ["dlrm", "wide_deep", "cnn"])
def test_scores_are_those_of_the_model_for_any_number_of_rows(
    name: str, format_: Format, tmp_path: Path
) -> None:
    spec, dataset = (IMAGES, DIGITS) if name == "cnn" else (SPEC, VISITS)
    loaded = _model(name, spec)

    export(loaded, dataset, format_, tmp_path)

    assert names_in(tmp_path) == {FILES[format_], "example.json", "model.json"}
    assert_equal(loaded, dataset, format_, tmp_path)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_equal(loaded: LoadedModel, dataset: Dataset, format_: Format, folder: Path) -> None:
    """The file gives the model's scores."""
    for rows in (1, 3, 200):
        inputs = example_inputs(loaded.spec, dataset, rows, seed=rows)
        expected = predict(loaded.model, batch_of(inputs)).numpy()
        assert rows == 1 or np.ptp(expected) > 0.01
        found = run(folder / FILES[format_], format_, inputs)
        assert np.abs(found - expected).max() <= 1e-5


def test_weights_that_one_file_of_onnx_cannot_hold_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = _model("dlrm", replace(SPEC, table_rows=(5_000, 9)))
    size = sum(weights.nbytes for weights in loaded.model.parameters())
    monkeypatch.setattr(exports, "MOST_ONNX_BYTES", size // 2)

    export(loaded, VISITS, "onnx", tmp_path)

    assert names_in(tmp_path) == {"model.onnx", "model.onnx.data", "example.json", "model.json"}
    assert (tmp_path / "model.onnx.data").stat().st_size >= 4 * 4 * 5_000
    assert_equal(loaded, VISITS, "onnx", tmp_path)
    # It may be moved, but not without them.
    (tmp_path / "elsewhere").mkdir()
    for name in ("model.onnx", "model.onnx.data"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert_equal(loaded, VISITS, "onnx", tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "model.onnx.data").unlink()
    with pytest.raises(Exception, match=r"model\.onnx\.data"):
        assert_equal(loaded, VISITS, "onnx", tmp_path / "elsewhere")


class BranchesOnValues(nn.Module):
    """What no exporter can trace: another path for other values."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.linear = nn.Linear(spec.num_dense, 1)

    def forward(self, batch: Batch) -> Tensor:
        found: Tensor = self.linear(batch.dense.nan_to_num()).squeeze(1)
        return found * 2 if float(found.detach().sum()) > 0 else found - 1


@pytest.mark.parametrize("format_", ["onnx", "torchscript"])
def test_a_model_that_no_file_can_hold_is_refused(format_: Format, tmp_path: Path) -> None:
    loaded = _model("tests.evaluate.export.test_export:BranchesOnValues")

    with pytest.raises((ConfigError, DataRefused), match=r"cannot be exported|apart"):
        export(loaded, VISITS, format_, tmp_path)


def _predictor(tmp_path: Path, dataset: Dataset) -> Predictor:
    folder = str(tmp_path / "model")
    digest = save_model(folder, _model("mlp").model, "mlp", SPEC, {})
    assert load_model(folder).digest == digest
    return Predictor(folder, digest, dataset, 64)


class Thousands(MLP):
    """A regression whose labels are in the thousands."""

    def forward(self, batch: Batch) -> Tensor:
        return 5_000 + 2_000 * super().forward(batch)


class Shifted(MLP):
    """Gives another score when it is exported, by a share of the scores' spread."""

    def forward(self, batch: Batch) -> Tensor:
        shift = 10.0 if torch.compiler.is_exporting() else 0.0
        return 5_000 + 2_000 * super().forward(batch) + shift


def test_the_difference_allowed_is_a_share_of_the_scores_spread(tmp_path: Path) -> None:
    spec = replace(SPEC, task="regression")
    thousands = _model(f"{__name__}:Thousands", spec)

    export(thousands, VISITS, "onnx", tmp_path)
    with pytest.raises(DataRefused, match=r"10[.\d]* apart[\s\S]*1e-05 of their spread of"):
        export(_model(f"{__name__}:Shifted", spec), VISITS, "onnx", tmp_path)


def test_another_exporter_makes_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path / "lake"), "visits")
    predictor = _predictor(tmp_path, VISITS)
    first = with_engine(lake, predictor, "onnx")

    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} of tomorrow")
    _maker.cache_clear()
    second = with_engine(lake, predictor, "onnx")
    _maker.cache_clear()

    assert first.onnx_url != second.onnx_url
    assert Path(first.onnx_url).exists()


def test_scoring_reads_the_export_that_the_driver_checked(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"), "visits")
    predictor = _predictor(tmp_path, VISITS)

    first = with_engine(lake, predictor, "onnx")

    content = Path(first.onnx_url).read_bytes()
    assert first.onnx_digest == hashlib.sha256(content).hexdigest()
    assert with_engine(lake, predictor, "onnx") == first
    assert isinstance(
        loaded_onnx(first.onnx_url, first.onnx_digest, 1), onnxruntime.InferenceSession
    )
    Path(first.onnx_url).write_bytes(content[:-1] + b"x")
    with pytest.raises(DataRefused, match=f"expected: digest {first.onnx_digest}"):
        loaded_onnx(first.onnx_url, first.onnx_digest, 2)
