"""What a model is: its card and source are compared before anything they name is imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from jobs.base.errors import ConfigError, DataRefused
from jobs.models.artifact import load_model, save_model
from jobs.models.build import build_model
from jobs.models.folder import weights_digest
from jobs.models.identity import Identity
from jobs.models.ties import state_of
from jobs.settings.objects import source_of
from jobs.train.warm.source import WarmStart
from jobs.train.warm.weights import warm
from tests.builders.batches import SPEC

# Says that it was imported, by a file beside it.
NET = """
from pathlib import Path
import torch
Path(__file__).with_name("imported").touch()
class Net(torch.nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.linear = torch.nn.Linear(spec.num_dense, 1)
    def forward(self, batch):
        return self.linear(batch.dense.nan_to_num()).squeeze(1)
"""
OWN = "./net.py:Net"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model of a user's own, whose file was not imported since."""
    (tmp_path / "net.py").write_text(NET)
    model = build_model(OWN, SPEC, str(tmp_path))
    save_model(str(tmp_path / "model"), model, OWN, SPEC, {"base": str(tmp_path)})
    (tmp_path / "imported").unlink()
    return tmp_path / "model"


def identity_of(folder: Path) -> Identity:
    return Identity.of_card(json.loads((folder / "model.json").read_text()))


def edited(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | changes))


def test_an_identity_goes_to_text_and_back(folder: Path) -> None:
    identity = identity_of(folder)
    load_model(str(folder), identity)
    assert Identity.of_text(identity.as_text()) == identity
    assert (folder.parent / "imported").exists()


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("model", {"model": "./other.py:Net"}),
        ("spec", {"spec": {**SPEC.to_json(), "dropout": 0.25}}),
        ("source", {"source": ""}),
        ("weights", {"weights_digest": "0" * 32}),
        ("moments", {"moments_digest": "0" * 32}),
    ],
)
def test_an_edited_card_is_named_and_imports_nothing(
    folder: Path, part: str, changes: dict[str, object]
) -> None:
    identity = identity_of(folder)
    edited(folder, **changes)
    (folder.parent / "other.py").write_text(NET)
    assert identity_of(folder).digest != identity.digest
    with pytest.raises(DataRefused, match=rf"was changed: {part}\n[\s\S]*restore") as refused:
        load_model(str(folder), identity)
    assert refused.value.exit_code == 3
    assert not (folder.parent / "imported").exists()


def test_an_edited_source_is_named_and_not_imported(folder: Path) -> None:
    identity = identity_of(folder)
    file = folder.parent / "net.py"
    before = source_of(OWN, str(folder.parent))
    file.write_text(NET.replace(".squeeze(1)", ".squeeze(1) + 1"))
    now = source_of(OWN, str(folder.parent))
    with pytest.raises(DataRefused, match=rf"source of model '{OWN}'[\s\S]*warm_start") as refused:
        load_model(str(folder), identity)
    assert now in str(refused.value) and before in str(refused.value)
    assert not (folder.parent / "imported").exists()

    # A warm start takes its weights, to go on with new code.
    model = build_model(OWN, SPEC, str(folder.parent))
    warm(model, SPEC, WarmStart("1", str(folder), ("a", "b", "c"), {}, identity))
    assert weights_digest(state_of(model)) == identity.weights


def test_a_source_that_is_changed_after_its_import_is_not_saved_as_the_imported_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "net.py").write_text(NET)
    model = build_model(OWN, SPEC, str(tmp_path))
    trained = source_of(OWN, str(tmp_path))
    (tmp_path / "net.py").write_text(NET + "\n# later")
    save_model(str(tmp_path / "model"), model, OWN, SPEC, {"base": str(tmp_path)})
    assert identity_of(tmp_path / "model").source == trained


def test_the_source_of_a_module_is_found_without_importing_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "nets" / "inner"
    package.mkdir(parents=True)
    for init in (package.parent, package):
        (init / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "net.py").write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = source_of("nets.inner.net:Net", ".")
    (package / "net.py").write_text(NET + "\n")
    assert source_of("nets.inner.net:Net", ".") != before
    assert not any(name.startswith("nets") for name in sys.modules)
    with pytest.raises(ConfigError, match=r"no module nets\.inner\.none"):
        source_of("nets.inner.none:Net", ".")


def test_the_source_of_a_distribution_names_its_version() -> None:
    assert source_of("torch.nn:Linear", ".").startswith(f"torch {torch.__version__} ")


def test_our_own_models_have_no_source_that_an_upgrade_would_change(tmp_path: Path) -> None:
    save_model(str(tmp_path), build_model("mlp", SPEC), "mlp", SPEC, {})
    assert identity_of(tmp_path).source == ""
    load_model(str(tmp_path), identity_of(tmp_path))
