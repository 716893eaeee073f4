"""Scoring: from raw rows, its inference alone, the forward alone, and predict_batch_udf.

    python -m benchmarks.bench_score [--rows 1000000] [--folder data/bench/score]

One set of rows in Criteo's format, one DLRM at its defaults. The limit is the plain forward loop
over tensors in memory, in as many processes of one thread as the machine has cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import FloatType

from benchmarks.common import machine, print_figures, print_table
from benchmarks.make_criteo import write_days
from jobs.base.spark import session
from jobs.batch.batch import Batch
from jobs.batch.layout import batch_from_arrow
from jobs.etl import job as etl
from jobs.etl.job import source_paths
from jobs.etl.states import state_entries
from jobs.etl.validate import checked_rows
from jobs.evaluate import score
from jobs.evaluate.predict.encoded import stage_encoded, valid
from jobs.evaluate.predict.predict import Predictor, predicted_files
from jobs.lake.files import NewFile
from jobs.lake.lake import Lake
from jobs.lake.ledger import new_run_id
from jobs.lake.state import load_state
from jobs.models.artifact import load_model
from jobs.models.build import predict
from jobs.registry.registry import Registry
from jobs.registry.version import ModelVersion
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from jobs.train import job as train
from schemas.dataset import ROW_ID

FIRST, SECOND = "2026-01-01", "2026-01-02"
TRAINED_ROWS = 100_000
REPEATS = 3
LIMIT_SHARE, UDF_FACTOR = 0.7, 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="to score")
    parser.add_argument("--folder", type=Path, default=Path("data/bench/score"))
    asked = parser.parse_args()
    # Workers are started before Spark and torch have threads of their own.
    multiprocessing.set_start_method("spawn")
    shutil.rmtree(asked.folder, ignore_errors=True)
    settings = _settings(asked.folder)
    write_days(asked.folder / "raw", TRAINED_ROWS, [FIRST], seed=7)
    write_days(asked.folder / "raw", asked.rows, [SECOND], seed=8)
    properties = settings.spark.properties_file
    spark = session("bench score", settings.path(properties) if properties else None)
    model = _trained(settings, spark)
    rows_per_s = _measured(settings, spark, model, asked.folder)
    _print(rows_per_s, asked.rows)


def _settings(folder: Path) -> Settings:
    overrides = [
        f"lake={(folder / 'lake').resolve()}",
        f"etl.sources.criteo={(folder / 'raw').resolve()}/day_{{ds}}*",
        "train.model=dlrm",
        "train.workers=1",
        "etl.split={train: 0.9, val: 0.05, test: 0.05, seed: 7}",
    ]
    return load_settings("conf/criteo.yaml", overrides)


def _trained(settings: Settings, spark: SparkSession) -> ModelVersion:
    etl.run(settings, spark, run_id=new_run_id("etl"), dates=[FIRST])
    found = train.run(settings, spark, run_id=new_run_id("train"))
    return _registry(settings).resolve(found.version)


def _registry(settings: Settings) -> Registry:
    return Registry(settings, Lake(settings.lake_url, settings.dataset().name))


def _measured(
    settings: Settings, spark: SparkSession, model: ModelVersion, folder: Path
) -> dict[str, float]:
    """Rows/s of each way, the median of the repeats."""
    dataset = settings.dataset()
    files, url = _encoded(settings, spark, model)
    rows = sum(file.rows for file in files)
    paths = [f"{url}/{file.path}" for file in files]
    rows_of_udf = spark.read.parquet(*paths)
    predictor = Predictor(
        model.folder_url, model.tags["weights_digest"], dataset, settings.score.batch_rows
    )
    cores = spark.sparkContext.defaultParallelism

    def from_raw() -> None:
        score.run(settings, spark, run_id=new_run_id("score"), dates=[SECOND], model=model.version)

    def score_files() -> DataFrame:
        return predicted_files(spark, url, files, predictor, [(ROW_ID, "bigint")])

    found = {
        "limit": rows / _loop_seconds(paths, predictor, cores),
        "inference": rows / _median(lambda: _run(score_files())),
        "udf": rows / _median(lambda: _run(_by_udf(rows_of_udf, predictor))),
    }
    found["from_raw"] = rows / _median(from_raw, repeats=1)
    return found


def _encoded(
    settings: Settings, spark: SparkSession, model: ModelVersion
) -> tuple[list[NewFile], str]:
    """The rows to score as the score job's first half leaves them, and the URL above them."""
    dataset, lake = settings.dataset(), Lake(settings.lake_url, settings.dataset().name)
    rows = checked_rows(spark, dataset, source_paths(settings, dataset), [SECOND], with_label=False)
    state = load_state(lake, model.tags["state_digest"])
    entries = state_entries(spark, lake, state)
    files = stage_encoded(rows, dataset, entries, state.ds, (), lake, "bench")
    return valid(files), lake.table("encoded").url


def _run(frame: DataFrame) -> None:
    frame.write.format("noop").mode("overwrite").save()


def _median(work: Callable[[], None], repeats: int = REPEATS) -> float:
    """Seconds, after one run that does not count where there are several."""
    if repeats > 1:
        work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _by_udf(encoded: DataFrame, predictor: Predictor) -> DataFrame:
    """Spark's own helper, as its documentation uses it, with the same model and batch size."""
    dataset, folder = predictor.dataset, predictor.folder_url

    def make() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        model = load_model(folder).model
        torch.set_num_threads(1)

        def forward(dense: np.ndarray, sparse: np.ndarray) -> np.ndarray:
            return predict(model, _batch(dense, sparse)).numpy()

        return forward

    dense = [f.name for f in dataset.numeric]
    sparse = [f.name for f in dataset.categorical]
    infer = predict_batch_udf(
        make,
        return_type=FloatType(),
        batch_size=predictor.batch_rows,
        input_tensor_shapes=[[len(dense)], [len(sparse)]],
    )
    missing = F.lit(float("nan")).cast("float")
    numbers = F.array(*(F.coalesce(F.col(name), missing) for name in dense))
    return encoded.select(ROW_ID, infer(numbers, F.array(*sparse)).alias("score"))


def _batch(dense: np.ndarray, sparse: np.ndarray) -> Batch:
    zeros = torch.zeros(len(dense), dtype=torch.int64)
    return Batch(
        dense=torch.from_numpy(np.ascontiguousarray(dense, np.float32)),
        sparse=torch.from_numpy(np.ascontiguousarray(sparse, np.int64)),
        label=zeros.float(),
        weight=zeros.float(),
        row_id=zeros,
        is_row=zeros.bool(),
        position=zeros,
        tensors={},
    )


def _loop_seconds(paths: Sequence[str], predictor: Predictor, cores: int) -> float:
    """Of the plain forward loop: each process its share of the rows, all at once."""
    barrier, seconds = multiprocessing.Barrier(cores), multiprocessing.Queue()
    shares = [
        multiprocessing.Process(
            target=_loop,
            args=(paths, predictor, number, cores, barrier, seconds),
        )
        for number in range(cores)
    ]
    for share in shares:
        share.start()
    found = [seconds.get(timeout=600) for _ in shares]
    for share in shares:
        share.join()
    return max(found)


def _loop(
    paths: Sequence[str], predictor: Predictor, number: int, cores: int, barrier: Any, seconds: Any
) -> None:
    torch.set_num_threads(1)
    table = pa.concat_tables(pq.read_table(path) for path in paths)
    share = -(-table.num_rows // cores)
    whole = batch_from_arrow(
        table.slice(number * share, share), predictor.dataset, with_label=False
    )
    rows = predictor.batch_rows
    batches = [whole[start : start + rows] for start in range(0, len(whole), rows)]
    model = load_model(predictor.folder_url).model

    def loop() -> None:
        barrier.wait(timeout=600)
        for batch in batches:
            predict(model, batch)

    seconds.put(_median(loop))


def _print(rows_per_s: dict[str, float], rows: int) -> None:
    limit, udf = rows_per_s["limit"], rows_per_s["udf"]
    names = {
        "limit": "forward loop over tensors in memory (the limit)",
        "inference": "Millstream's inference",
        "udf": "Spark's predict_batch_udf",
        "from_raw": "Millstream's score job, from raw to the commit",
    }
    print(f"{rows:,} rows in Criteo's format, DLRM; {machine('torch', 'pyspark', 'pyarrow')}\n")
    print_table(
        ("", "rows/s", "of the limit", "times predict_batch_udf"),
        [
            (
                text,
                f"{rows_per_s[key]:,.0f}",
                f"{rows_per_s[key] / limit:.2f}",
                f"{rows_per_s[key] / udf:.2f}",
            )
            for key, text in names.items()
        ],
    )
    figures = {f"{key}_rows_per_s": round(value) for key, value in rows_per_s.items()}
    figures["inference_of_limit"] = round(rows_per_s["inference"] / limit, 3)
    figures["inference_to_udf"] = round(rows_per_s["inference"] / udf, 3)
    print_figures(figures)
    if figures["inference_of_limit"] < LIMIT_SHARE or figures["inference_to_udf"] < UDF_FACTOR:
        sys.exit(
            f"missed: inference at least {LIMIT_SHARE} of the limit and {UDF_FACTOR} times "
            "predict_batch_udf"
        )


if __name__ == "__main__":
    main()
