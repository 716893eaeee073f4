"""A model whose tables are in files: the same scores, one identity, little memory, named damage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jobs.base.errors import DataRefused
from jobs.models.artifact import load_model, save_model
from jobs.models.build import Model, build_model, predict
from jobs.models.identity import Identity
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
    assert sum(loaded.table_bytes.values()) > 0


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
import sys, torch
from dataclasses import replace
from jobs.models.artifact import load_model
from jobs.models.build import predict
from tests.builders.batches import batch_of
import jobs.stores.host as host
host.tempfile.tempdir = sys.argv[3]

def anonymous():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(l.split()[1]) for l in file if l.startswith("Anonymous:")) / 1024

# What torch itself takes on its first call is no matter.
torch.randn(64, 64) @ torch.randn(64, 64)
before = anonymous()
loaded = load_model(sys.argv[1], map_files=sys.argv[2] == "mapped")
predict(loaded.model, batch_of(256, seed=4, spec=loaded.spec))
print(anonymous() - before)
"""


@pytest.mark.slow
def test_a_worker_needs_no_memory_for_mapped_tables(tmp_path: Path) -> None:
    from dataclasses import replace

    spec = replace(SPEC, table_rows=(7, 2_000_000, 5), embedding_dims=(2, 32, 3))
    model = build_model("mlp", spec)
    save_model(str(tmp_path / "model"), model, "mlp", spec, {}, least_table_bytes=1 << 20)
    grown = {
        kind: float(
            subprocess.run(
                [sys.executable, "-c", _WORKER, str(tmp_path / "model"), kind, str(tmp_path)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for kind in ("mapped", "whole")
    }
    print(grown)
    # The table has 256 MB.
    assert grown["whole"] > 200
    assert grown["mapped"] < 64
