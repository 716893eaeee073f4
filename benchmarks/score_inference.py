"""Inference over encoded rows: Millstream's, Spark's `predict_batch_udf`, and a plain loop."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from deltalake import DeltaTable
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import FloatType

from jobs.base.spark import session
from jobs.batch.batch import Batch
from jobs.batch.layout import batch_from_arrow
from jobs.evaluate.predict.predict import Predictor, predicted
from jobs.lake.lake import Lake
from jobs.models.artifact import load_model
from jobs.models.build import predict
from jobs.registry.registry import Registry
from jobs.settings.settings import Settings
from schemas.dataset import ROW_ID

REPEATS = 3


def inference_rows_per_s(settings: Settings) -> dict[str, float]:
    """Rows/s of each way, the median of the repeats."""
    properties = settings.spark.properties_file
    spark = session("bench score", settings.path(properties) if properties else None)
    dataset, lake = settings.dataset(), Lake(settings.lake_url, settings.dataset().name)
    model = Registry(settings, lake).resolve("latest")
    predictor = Predictor.of(model, dataset, settings.score.batch_rows)
    paths = DeltaTable(lake.table("examples").url).file_uris()
    rows = sum(pq.ParquetFile(path).metadata.num_rows for path in paths)
    examples = spark.read.parquet(*paths)
    cores = spark.sparkContext.defaultParallelism
    return {
        "limit": rows / _loop_seconds(paths, predictor, cores),
        "inference": rows / _median(lambda: _run(predicted(examples, predictor, [ROW_ID]))),
        "udf": rows / _median(lambda: _run(_by_udf(examples, predictor))),
    }


def _run(frame: DataFrame) -> None:
    frame.write.format("noop").mode("overwrite").save()


def _median(work: Callable[[], None]) -> float:
    """Seconds, after one run that does not count."""
    work()
    seconds = []
    for _ in range(REPEATS):
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
