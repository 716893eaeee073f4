"""A model whose tables are in files: the same scores, one identity, little memory, named damage."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs.base.errors import DataRefused
from jobs.batch.batch import Batch
from jobs.models.artifact import load_model, save_model
from jobs.models.build import Model, build_model, predict
from jobs.models.identity import Identity
from jobs.models.spec import ModelSpec
from jobs.stores import host
from tests.builders.batches import SPEC, batch_of


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.tempfile, "tempdir", str(tmp_path))


def made(name: str = "wide_deep") -> Model:
    torch.manual_seed(2)
    return build_model(name, SPEC)


def saved(folder: Path, model: Model, name: str = "wide_deep") -> str:
    return save_model(str(folder), model, name, SPEC, {}, least_table_bytes=0)


@pytest.mark.parametrize("name", ["wide_deep", "dlrm", "dcn_v2", "mlp"])
@pytest.mark.parametrize("map_files", [True, False])
def test_scores_are_those_of_the_whole_model(tmp_path: Path, name: str, map_files: bool) -> None:
    model, batch = made(name), batch_of(100, seed=4)
    digest = saved(tmp_path / "model", model, name)
    loaded = load_model(str(tmp_path / "model"), map_files=map_files)
    assert torch.equal(predict(loaded.model, batch), predict(model, batch))
    assert loaded.digest == digest
    assert loaded.tables


def test_a_store_of_objects_has_the_same_model_and_a_host_one_copy(tmp_path: Path) -> None:
    url, batch = f"memory://{tmp_path}/best", batch_of(50, seed=4)
    digest = save_model(url, made(), "wide_deep", SPEC, {}, least_table_bytes=0)
    first, second = load_model(url), load_model(url)
    assert torch.equal(predict(first.model, batch), predict(second.model, batch))
    assert first.digest == digest == saved(tmp_path / "model", made())
    copies = [path for path in tmp_path.glob("millstream-*/copies/*") if path.is_dir()]
    assert [path.name for path in copies] == [digest]


def test_one_other_value_is_another_model(tmp_path: Path) -> None:
    model = made()
    before = saved(tmp_path / "a", model)
    with torch.no_grad():
        model.net.wide.tables[0].weight[3] += 1e-3
    assert saved(tmp_path / "b", model) != before


@pytest.mark.parametrize("damage", ["flipped", "torn", "missing"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    saved(tmp_path / "model", made())
    file = next((tmp_path / "model" / "tables").rglob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flipped" else content[:-3])
    with pytest.raises(DataRefused, match=r"buckets-0-of-1"):
        load_model(str(tmp_path / "model"))


def test_a_changed_digest_of_a_table_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "model", made())
    path = tmp_path / "model" / "model.json"
    card = json.loads(path.read_text())
    known = Identity.of_card(card)
    card["tables"][0]["digests"]["rows"][0] = "0" * 32
    path.write_text(json.dumps(card))
    with pytest.raises(DataRefused, match="tables"):
        load_model(str(tmp_path / "model"), known)


_WORKER = """
import resource, sys, torch
from jobs.models.artifact import load_model
from jobs.models.build import predict
from tests.builders.batches import batch_of
import jobs.stores.host as host
host.tempfile.tempdir = sys.argv[3]

def data_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData:"))

# What torch itself takes on its first call is no matter.
torch.set_num_threads(1)
torch.randn(64, 64) @ torch.randn(64, 64)
most = data_bytes() + (100 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
loaded = load_model(sys.argv[1], map_files=sys.argv[2] == "mapped")
print(predict(loaded.model, batch_of(256, seed=4, spec=loaded.spec)).mean())
"""


@pytest.mark.slow
def test_a_worker_that_could_not_hold_a_table_scores_with_it(tmp_path: Path) -> None:
    spec = replace(SPEC, table_rows=(7, 2_000_000, 5), embedding_dims=(2, 40, 3))
    # 320 MB; the worker may take 100 MB of memory of its own.
    model = build_model("mlp", spec)
    save_model(str(tmp_path / "model"), model, "mlp", spec, {}, least_table_bytes=1 << 20)

    def worker(kind: str) -> subprocess.CompletedProcess[str]:
        given = [str(tmp_path / "model"), kind, str(tmp_path)]
        return subprocess.run(
            [sys.executable, "-c", _WORKER, *given], check=False, capture_output=True, text=True
        )

    held = worker("whole")
    assert held.returncode == 1
    assert "alloc" in held.stderr
    found = worker("mapped")
    assert found.returncode == 0, found.stderr
    expected = predict(model, batch_of(256, seed=4, spec=spec)).mean()
    assert found.stdout.strip() == str(expected)


class LayerLikeATable(torch.nn.Module):
    """Its layer has the shape of its table."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(spec.table_rows[1], 4)
        self.layer = torch.nn.Linear(4, spec.table_rows[1])

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.layer(self.table(batch.sparse[:, 1])).sum(1)


def test_a_layer_of_a_tables_shape_keeps_its_values(tmp_path: Path) -> None:
    name = "tests.models.test_tables_in_files:LayerLikeATable"
    model, batch = made(name), batch_of(100, seed=4)
    saved(tmp_path / "model", model, name)
    loaded = load_model(str(tmp_path / "model"))
    assert torch.equal(predict(loaded.model, batch), predict(model, batch))
