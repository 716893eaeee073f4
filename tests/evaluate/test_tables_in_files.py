"""A model whose tables are in files is trained, registered, evaluated and scores a date."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError
from jobs.evaluate import job, score
from jobs.evaluate.export import export as exports
from jobs.evaluate.export.export import export_version, with_engine
from jobs.evaluate.predict.predict import Predictor
from jobs.registry.registry import Registry
from jobs.settings.settings import Settings
from jobs.train import job as train
from tests.builders.models import lake_of
from tests.evaluate.conftest import NIGHT, Line


def trained(
    line: Line, spark: SparkSession, least_mb: int, run: str, **more: object
) -> tuple[Settings, str]:
    changes = {"map_tables_mb": least_mb, "epochs": 1, "workers": 1, **more}
    chosen = line.settings.train.model_copy(update=changes)
    settings = line.settings.model_copy(update={"train": chosen})
    return settings, train.run(settings, spark, run_id=run, resume="never").version


@pytest.mark.slow
def test_a_training_to_files_scores_as_one_without(
    line: Line, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scores = {}
    for run, least_mb in (("apart", 0), ("together", 256)):
        settings, version = trained(line, spark, least_mb, f"train-{run}")
        registry = Registry(settings, lake_of(settings))
        found = registry.resolve(version)
        assert Path(found.folder_url, "tables").is_dir() == (run == "apart")
        job.run(settings, spark, run_id=f"evaluate-{run}", model=version)
        score.run(settings, spark, run_id=f"score-{run}", dates=[NIGHT], model=version)
        table = lake_of(settings).table("predictions").read_arrow().to_pandas()
        scores[run] = table.query("ds == @NIGHT").sort_values("visit")["score"].to_numpy()
        if run == "apart":
            registry.promote(version, "promote-apart")
            assert registry.champion() == found
            apart = settings, found
    assert len(scores["apart"]) == 61
    np.testing.assert_array_equal(scores["apart"], scores["together"])
    settings, found = apart
    # What one file of ONNX has no place for lies beside it, and scoring refuses it by name.
    predictor = Predictor.of(found, settings.dataset(), 64)
    assert with_engine(lake_of(settings), predictor, "onnx").onnx_digest
    monkeypatch.setattr(exports, "MOST_ONNX_BYTES", 100)
    export_version(lake_of(settings), found, settings.dataset(), "onnx", str(tmp_path / "to"))
    assert (tmp_path / "to" / "model.onnx.data").stat().st_size > 100
    with pytest.raises(ConfigError, match=r"net\.\S+weight [0-9,]+ bytes.*\n.*\n.*torch"):
        other = replace(predictor, batch_rows=65)
        monkeypatch.setattr(exports, "_maker", lambda _: "another")
        with_engine(lake_of(settings), other, "onnx")


@pytest.mark.slow
def test_a_training_with_sharded_tables_scores_as_one_with_whole_ones(
    line: Line, spark: SparkSession
) -> None:
    scores = {}
    for tables, workers in (("sharded", 2), ("replicated", 1)):
        changes = {"tables": tables, "workers": workers, "optimizer": "sgd"}
        settings, version = trained(line, spark, 256, f"train-{tables}", **changes)
        found = Registry(settings, lake_of(settings)).resolve(version)
        files = {path.name for path in Path(found.folder_url).rglob("buckets-*")}
        assert len(files) == (2 if tables == "sharded" else 0), "a piece of each rank"
        job.run(settings, spark, run_id=f"evaluate-{tables}", model=version)
        score.run(settings, spark, run_id=f"score-{tables}", dates=[NIGHT], model=version)
        table = lake_of(settings).table("predictions").read_arrow().to_pandas()
        scores[tables] = table.query("ds == @NIGHT").sort_values("visit")["score"].to_numpy()
    assert len(scores["sharded"]) == 61
    np.testing.assert_allclose(scores["sharded"], scores["replicated"], rtol=0, atol=1e-5)
