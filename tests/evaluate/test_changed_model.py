"""A model whose source or card was changed since its training neither scores nor serves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import DataRefused
from jobs.evaluate import job, score
from jobs.evaluate.export.export import export_version
from jobs.evaluate.predict.predict import loaded
from jobs.registry.registry import Registry
from jobs.registry.version import ModelVersion
from jobs.serve.champion import load_champion
from jobs.settings.settings import Settings
from jobs.train import job as train
from tests.builders.models import lake_of, register_model
from tests.evaluate.conftest import NIGHT, SECOND, Line
from tests.models.test_identity import NET, OWN


@dataclass(frozen=True)
class Own:
    """A model of a user's own, registered on the line's examples."""

    settings: Settings
    spark: SparkSession
    version: ModelVersion
    file: Path


@pytest.fixture
def own(line: Line, spark: SparkSession) -> Iterator[Own]:
    file = line.raw.folder / "net.py"
    file.write_text(NET)
    chosen = line.settings.train.model_copy(update={"model": OWN, "epochs": 1})
    settings = line.settings.model_copy(update={"train": chosen})
    registry = Registry(settings, lake_of(settings))
    version = registry.resolve(register_model(settings, SECOND, seed=41))
    loaded.cache_clear()
    card = Path(version.folder_url, "model.json")
    before = card.read_text()
    yield Own(settings, spark, version, file)
    card.write_text(before)
    loaded.cache_clear()


def _evaluate(own: Own, _: Path) -> None:
    job.run(own.settings, own.spark, run_id="evaluate-own", model=own.version.version)


def _score(own: Own, _: Path) -> None:
    score.run(own.settings, own.spark, run_id="score-own", dates=[NIGHT], model=own.version.version)


def _serve(own: Own, tmp_path: Path) -> None:
    settings, lake = own.settings, lake_of(own.settings)
    load_champion(settings.serve, settings.dataset(), lake, own.version, {}, tmp_path)


def _promote(own: Own, _: Path) -> None:
    Registry(own.settings, lake_of(own.settings)).promote(own.version.version, "promote-own")


def _export(own: Own, tmp_path: Path) -> None:
    lake, dataset = lake_of(own.settings), own.settings.dataset()
    export_version(lake, own.version, dataset, "torchscript", str(tmp_path / "export"))


@pytest.mark.parametrize("changed", ["source", "card"])
@pytest.mark.parametrize("use", [_evaluate, _score, _serve, _promote, _export])
def test_a_changed_model_is_named_before_it_is_used(
    own: Own, tmp_path: Path, use: Callable[[Own, Path], None], changed: str
) -> None:
    if changed == "source":
        own.file.write_text(NET.replace(".squeeze(1)", ".squeeze(1) + 1"))
    else:
        (own.file.with_name("evil.py")).write_text(NET)
        card = Path(own.version.folder_url, "model.json")
        tree = json.loads(card.read_text())
        card.write_text(json.dumps(tree | {"model": "./evil.py:Net"}))
    own.file.with_name("imported").unlink(missing_ok=True)
    named = "the source of model './net.py:Net'" if changed == "source" else "was changed: model"
    with pytest.raises(DataRefused, match=named):
        use(own, tmp_path)
    assert not own.file.with_name("imported").exists()


def test_a_warm_start_goes_on_with_new_source(own: Own) -> None:
    own.file.write_text(NET.replace(".squeeze(1)", ".squeeze(1) * 1.0"))
    warm = own.settings.train.model_copy(update={"warm_start": own.version.version})
    settings = own.settings.model_copy(update={"train": warm})
    result = train.run(settings, own.spark, run_id="train-own")
    found = Registry(settings, lake_of(settings)).resolve(result.version)
    assert found.identity is not None and own.version.identity is not None
    assert found.identity.source not in ("", own.version.identity.source)
    assert job.run(settings, own.spark, run_id="evaluate-new", model=found.version)
