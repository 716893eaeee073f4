"""Law 8: the same row and model version give the same score wherever it is computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.evaluate import score
from jobs.evaluate.export.export import EXAMPLE, FILES, Format, export_version, run
from jobs.evaluate.predict.predict import Predictor, predicted
from jobs.lake.lake import Lake
from jobs.registry.registry import Registry
from jobs.registry.version import ModelVersion
from jobs.settings.load import load_settings
from schemas.dataset import struct_type
from tests.builders.lakes import example_rows, examples_of, run_etl
from tests.builders.models import register_model, scores_of
from tests.builders.visits import VISITS, Raw, rows_of

DS = "2024-01-01"
# Nulls in numbers and categories, a value too rare for an id, one that is cut by its transform.
HOSTILE = (
    f"{DS},900,NA,NA,NA,1",
    f"{DS},901,rare,0.0,0,0",
    f"{DS},902,b,1e12,120,1",
    f"{DS},903,a,-0.0,NA,0",
)


def test_training_evaluation_and_scoring_agree(spark: SparkSession, tmp_path: Path) -> None:
    raw = Raw(tmp_path).add([*rows_of(DS, 9_996), *HOSTILE]).write()
    run_etl(raw, spark, [DS])
    settings = load_settings(raw.config)
    lake, dataset = Lake(settings.lake_url, "visits"), settings.dataset()
    version = register_model(settings, DS)
    rows = example_rows(raw)
    assert {900, 901, 902, 903} <= set(rows["visit"])

    in_training = pd.Series(scores_of(settings, version, rows), rows["visit"])

    model = Registry(settings, lake).resolve(version)
    predictor = Predictor.of(model, dataset, 16)
    examples = examples_of(raw)
    stored = spark.read.schema(
        struct_type((c.name, c.spark_type) for c in dataset.stored_columns())
    ).parquet(*[f"{examples.url}/{shard.path}" for shard in examples.shards()])
    # A hundred rows over 60 partitions: some are empty, some have one row; one has the others.
    scattered = stored.repartition(60, F.when(F.col("visit") % 100 == 0, F.col("visit")))
    in_evaluation = predicted(scattered, predictor, ["visit"]).toPandas().set_index("visit")

    score.run(settings, spark, run_id="score-1", dates=[DS], model=version)
    in_scoring = lake.table("predictions").read_arrow().to_pandas().set_index("visit")

    onnx = settings.model_copy(
        update={"score": settings.score.model_copy(update={"engine": "onnx"})}
    )
    score.run(onnx, spark, run_id="score-2", dates=[DS], model=version)
    in_onnx = lake.table("predictions").read_arrow().to_pandas().set_index("visit")
    assert set(in_onnx["run_id"]) == {"score-2"}

    assert len(in_training) == len(in_evaluation) == len(in_scoring) == 10_000
    assert np.ptp(in_training) > 0.05
    for found in (in_evaluation["score"], in_scoring["score"]):
        assert np.abs(found.loc[in_training.index] - in_training).max() <= 1e-6
    assert np.abs(in_onnx["score"].loc[in_training.index] - in_training).max() <= 1e-5
    for format_ in ("onnx", "torchscript"):
        in_file = _by_file(lake, model, format_, rows, str(tmp_path / format_))
        assert np.abs(in_file - in_training.to_numpy()).max() <= 1e-5


def _by_file(
    lake: Lake, model: ModelVersion, format_: Format, rows: pd.DataFrame, folder: str
) -> np.ndarray:
    """Scores by an exported file, of the values that a shard holds."""
    export_version(lake, model, VISITS, format_, folder)
    path = Path(folder, FILES[format_])
    dense = rows[[f.name for f in VISITS.numeric]].to_numpy(np.float32)
    sparse = rows[[f.name for f in VISITS.categorical]].to_numpy(np.int64)
    inputs = {"dense": torch.from_numpy(dense), "sparse": torch.from_numpy(sparse)}
    example = json.loads(Path(folder, EXAMPLE).read_text(encoding="utf-8"))
    given = {
        "dense": torch.tensor(np.array(example["inputs"]["dense"], np.float32)),
        "sparse": torch.tensor(example["inputs"]["sparse"]),
    }
    assert np.abs(run(path, format_, given) - np.array(example["score"])).max() <= 1e-5
    vocabulary = pd.read_parquet(Path(folder, "vocabulary.parquet"))
    assert {"a", "b"} <= set(vocabulary[vocabulary["field"] == "shop_id"]["value"])
    return run(path, format_, inputs)
