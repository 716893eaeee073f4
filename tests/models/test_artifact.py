"""A saved model: the same scores, checked weights, written whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import fsspec
import pytest
import torch

from jobs.base.errors import DataRefused
from jobs.models.artifact import load_model, save_model
from jobs.models.build import Model, build_model, predict
from jobs.models.folder import weights_digest
from jobs.models.stored import read_moments
from tests.builders.batches import SPEC, batch_of


@pytest.fixture
def model() -> Model:
    torch.manual_seed(2)
    return build_model("wide_deep", SPEC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "best"


def saved(folder: Path, model: Model) -> str:
    return save_model(str(folder), model, "wide_deep", SPEC, {"epoch": 3})


def test_a_loaded_model_is_the_saved_one(folder: Path, model: Model) -> None:
    digest = saved(folder, model)
    loaded = load_model(str(folder))
    batch = batch_of(100, seed=4)
    assert torch.equal(predict(loaded.model, batch), predict(model, batch))
    assert loaded.spec == SPEC
    assert loaded.card["epoch"] == 3
    assert loaded.digest == digest == weights_digest(model.state_dict())
    assert not loaded.model.training


def test_the_digest_follows_the_weights_alone(tmp_path: Path, model: Model) -> None:
    first = save_model(str(tmp_path / "a"), model, "wide_deep", SPEC, {"run": 1})
    again = save_model(str(tmp_path / "b"), model, "wide_deep", SPEC, {"run": 2})
    with torch.no_grad():
        model.net.wide.tables[0].weight[3] += 1e-6
    other = save_model(str(tmp_path / "c"), model, "wide_deep", SPEC, {"run": 1})
    assert first == again != other


def test_a_folder_is_replaced_whole(folder: Path, model: Model) -> None:
    saved(folder, model)
    with torch.no_grad():
        model.net.wide.tables[0].weight[3] += 1
    second = saved(folder, model)
    assert load_model(str(folder)).digest == second
    assert [path.name for path in folder.parent.iterdir()] == ["best"]
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_torn_weights_are_refused(folder: Path, model: Model, share: float) -> None:
    saved(folder, model)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataRefused, match="damaged"):
        load_model(str(folder))


def test_a_flipped_bit_is_refused(folder: Path, model: Model) -> None:
    digest = saved(folder, model)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DataRefused, match=digest):
        load_model(str(folder))


def test_weights_of_another_model_are_refused(tmp_path: Path, folder: Path, model: Model) -> None:
    saved(folder, model)
    save_model(str(tmp_path / "other"), build_model("wide_deep", SPEC), "wide_deep", SPEC, {})
    (tmp_path / "other" / "model.safetensors").rename(folder / "model.safetensors")
    with pytest.raises(DataRefused, match="with which they were saved"):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_missing_file_is_named(folder: Path, model: Model, name: str) -> None:
    saved(folder, model)
    (folder / name).unlink()
    with pytest.raises(DataRefused, match=name):
        load_model(str(folder))


def test_a_torn_card_is_refused(folder: Path, model: Model) -> None:
    saved(folder, model)
    card = folder / "model.json"
    card.write_text(card.read_text()[:-10])
    with pytest.raises(DataRefused, match="damaged"):
        load_model(str(folder))


def test_others_may_read_what_the_umask_lets_them(folder: Path, model: Model) -> None:
    before = os.umask(0o027)
    try:
        saved(folder, model)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}


def test_what_was_loaded_stays_when_the_folder_is_replaced(folder: Path, model: Model) -> None:
    digest = saved(folder, model)
    loaded = load_model(str(folder))
    with torch.no_grad():
        model.net.wide.tables[0].weight.fill_(0)
    saved(folder, model)
    assert weights_digest(loaded.model.state_dict()) == digest


@pytest.mark.parametrize("moments", [None, {"weight/sum": torch.ones(2, 3)}])
def test_a_model_is_the_same_on_a_store_without_local_files(
    tmp_path: Path, model: Model, moments: dict[str, torch.Tensor] | None
) -> None:
    url = f"memory://{tmp_path}/best"
    save_model(url, model, "wide_deep", SPEC, {}, moments)
    save_model(str(tmp_path / "best"), model, "wide_deep", SPEC, {}, moments)
    fs, path = fsspec.core.url_to_fs(url)
    written = {file.name: file.read_bytes() for file in (tmp_path / "best").iterdir()}
    assert {name: fs.cat_file(f"{path}/{name}") for name in written} == written
    assert len(fs.ls(path)) == len(written)
    loaded = read_moments(url)
    assert (loaded is None) == (moments is None)
    assert load_model(url).digest == load_model(str(tmp_path / "best")).digest


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_model_that_could_not_be_written_leaves_the_one_before(
    tmp_path: Path, model: Model, scheme: str
) -> None:
    url = f"{scheme}{tmp_path}/best"
    digest = save_model(url, model, "wide_deep", SPEC, {})
    with torch.no_grad():
        model.net.wide.tables[0].weight.fill_(0)
    # Two tensors that share memory are no file of safetensors.
    whole = torch.ones(4)
    with pytest.raises(RuntimeError, match="share memory"):
        save_model(url, model, "wide_deep", SPEC, {}, {"a": whole, "b": whole[:2]})
    assert load_model(url).digest == digest
    assert read_moments(url) is None
