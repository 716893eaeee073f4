"""Law 8: the same row and model version give the same score wherever it is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.evaluate import score
from jobs.evaluate.predict import Predictor, predicted
from jobs.evaluate.registry import Registry
from jobs.lake import Lake
from jobs.settings import load_settings
from schemas.dataset import struct_type
from tests.builders.lakes import example_rows, examples_of, run_etl
from tests.builders.models import register_model, scores_of
from tests.builders.visits import Raw, rows_of

DS = "2024-01-01"
# Nulls in numbers and categories, a value too rare for an id, one that is cut by its transform.
HOSTILE = (
    f"{DS},900,NA,NA,NA,1",
    f"{DS},901,rare,0.0,0,0",
    f"{DS},902,b,1e12,120,1",
    f"{DS},903,a,-0.0,NA,0",
)


def test_training_evaluation_and_scoring_agree(spark: SparkSession, tmp_path: Path) -> None:
    raw = Raw(tmp_path).add([*rows_of(DS, 60), *HOSTILE]).write()
    run_etl(raw, spark, [DS])
    settings = load_settings(raw.config)
    lake, dataset = Lake(settings.lake_url, "visits"), settings.dataset()
    version = register_model(settings, DS)
    rows = example_rows(raw)
    assert {900, 901, 902, 903} <= set(rows["visit"])

    in_training = pd.Series(scores_of(settings, version, rows), rows["visit"])

    model = Registry(settings, lake).resolve(version)
    predictor = Predictor(model.folder_url, model.tags["weights_digest"], dataset, 16)
    examples = examples_of(raw)
    stored = spark.read.schema(
        struct_type((c.name, c.spark_type) for c in dataset.stored_columns())
    ).parquet(*[f"{examples.url}/{shard.path}" for shard in examples.shards()])
    # 64 rows over 30 partitions: some are empty, some have one row.
    scattered = stored.repartition(30, F.col("visit"))
    in_evaluation = predicted(scattered, predictor, ["visit"]).toPandas().set_index("visit")

    score.run(settings, spark, run_id="score-1", dates=[DS], model=version)
    in_scoring = lake.table("predictions").read_arrow().to_pandas().set_index("visit")

    assert len(in_training) == len(in_evaluation) == len(in_scoring) == 64
    assert np.ptp(in_training) > 0.05
    for found in (in_evaluation["score"], in_scoring["score"]):
        assert np.abs(found.loc[in_training.index] - in_training).max() <= 1e-6
