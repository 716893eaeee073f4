"""Inference in Spark: encoded rows in, scores out, with the forward that training uses.

A Python worker loads a model once, whatever the number of partitions, and torch gets as many
threads as the task has cores. The scores are computed again for every action on the result:
persist it, or write it, before counting or filtering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.base.errors import DataRefused
from jobs.base.workers import in_workers
from jobs.evaluate.predict.ids import IdMaps, with_model_ids
from jobs.models.identity import Identity
from schemas.dataset import Dataset, struct_type
from schemas.source import spark_name

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import DataFrame

    from jobs.batch.batch import Batch
    from jobs.models.artifact import LoadedModel
    from jobs.registry.version import ModelVersion

SCORE, PREDICTED_CLASS, SCORES = "score", "predicted_class", "scores"
# A Python task costs about as much as a few thousand rows.
ROWS_PER_TASK = 1_000_000
# Rows become tensors so many forwards at a time: a column of a few rows costs as much as one of
# thousands, while what a forward makes of many rows leaves the processor's caches.
_FORWARDS = 4


@dataclass(frozen=True)
class Predictor:
    """What a Python worker needs to score; small to send.

    Attributes:
        folder_url: of the model.
        weights_digest: that its weights must have.
        dataset: the declaration that the model was trained with.
        batch_rows: rows a forward.
        left_out: fields of the declaration that the model does not see.
        identity: that the model must have; None of versions that were registered without one.
        onnx_url, onnx_digest: an exported model that ONNX Runtime scores with, and the digest of
            its bytes; empty where torch does.
    """

    folder_url: str
    weights_digest: str
    dataset: Dataset
    batch_rows: int
    identity: Identity | None = None
    onnx_url: str = ""
    onnx_digest: str = ""
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: ModelVersion, dataset: Dataset, batch_rows: int) -> Predictor:
        """The predictor of a version, as its card says.

        Raises:
            DataRefused: there is no card, or it is not the registered one.
        """
        from jobs.models.artifact import spec_of

        return cls(
            model.folder_url,
            model.tags["weights_digest"],
            dataset,
            batch_rows,
            model.identity,
            left_out=spec_of(model.folder_url, model.identity).left_out,
        )

    @property
    def digest(self) -> str:
        """By which what is made of the model is named, as `ModelVersion.digest`."""
        return self.identity.digest if self.identity else self.weights_digest

    def batch(self, rows: pa.Table, id_maps: IdMaps) -> Batch:
        """Rows of examples as the model reads them, without labels.

        Args:
            id_maps: field -> the model's id by that of the rows.
        """
        from jobs.batch.layout import batch_from_arrow

        maps = {name: ids for name, ids in id_maps.items() if name not in self.left_out}
        return batch_from_arrow(
            with_model_ids(rows, maps),
            self.dataset,
            with_label=False,
            columns=self.dataset.inputs_without(self.left_out),
        )

    @property
    def model(self) -> LoadedModel:
        """The model, loaded once a process.

        Raises:
            DataRefused, ConfigError: see `load_model`.
        """
        return loaded(self.folder_url, self.weights_digest, self.identity)

    def whole_model(self) -> LoadedModel:
        """The model with all rows of its tables in memory.

        Raises:
            DataRefused, ConfigError: see `load_model`.
        """
        return _as_registered(self.folder_url, self.weights_digest, self.identity, map_files=False)


def score_columns(dataset: Dataset) -> list[tuple[str, str]]:
    """(name, Spark type) of what a prediction says.

    Of a multiclass label: the most probable class (the lowest of equals), its probability as
    `score`, and the probabilities of all classes.
    """
    score = [(SCORE, "float")]
    if dataset.label.task == "multiclass":
        return [*score, (PREDICTED_CLASS, "int"), (SCORES, "array<float>")]
    return score


def predicted(
    rows: DataFrame, predictor: Predictor, keep: Sequence[str], id_maps: IdMaps | None = None
) -> DataFrame:
    """Scores rows.

    Args:
        rows: with the stored columns; label and weight may be absent.
        keep: columns of `rows` to keep.
        id_maps: for a model older than the examples, field -> the model's id by theirs.

    Returns:
        `keep`, then the columns of `score_columns`.
    """
    from pyspark.sql.types import StructType

    schema = rows.select(*map(spark_name, keep)).schema
    maps = rows.sparkSession.sparkContext.broadcast(dict(id_maps or {}))
    inputs = [
        c.name
        for c in predictor.dataset.stored_columns()
        if c.name in rows.columns and c.name not in predictor.left_out
    ]
    needed = rows.select(*map(spark_name, dict.fromkeys([*inputs, *keep])))
    scores = struct_type(score_columns(predictor.dataset))
    return in_workers(
        needed,
        partial(_score_rows, predictor, tuple(keep), maps),
        StructType([*schema.fields, *scores.fields]),
    )


def scored(
    predictor: Predictor,
    keep: Sequence[str],
    id_maps: IdMaps,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.Table]:
    """The step that evaluation and scoring share, in a Python worker.

    Args:
        batches: encoded rows, with the stored columns; label and weight may be absent.

    Returns:
        For each few forwards `keep`, then the columns of `score_columns`.
    """
    import torch

    threads = _task_cores()
    torch.set_num_threads(threads)
    forward = forward_of(predictor, threads, in_bulk=True)
    for table in _rebatched(batches, _FORWARDS * predictor.batch_rows):
        found = table.select(list(keep))
        scores = _in_forwards(forward, predictor.batch(table, id_maps), predictor.batch_rows)
        for name, column in _columns(scores).items():
            found = found.append_column(name, column)
        yield found


def _in_forwards(forward: Forward, batch: Batch, rows: int) -> npt.NDArray[np.float32]:
    """The scores of a batch, by forwards of so many rows."""
    starts = range(0, len(batch), rows)
    return np.concatenate([forward(batch[start : start + rows]) for start in starts])


def _score_rows(
    predictor: Predictor,
    keep: Sequence[str],
    id_maps: Broadcast[dict[str, npt.NDArray[np.int32]]],
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    for table in scored(predictor, keep, id_maps.value, batches):
        yield from table.to_batches()


def _columns(scores: npt.NDArray[np.float32]) -> dict[str, pa.Array]:
    """The columns of `score_columns`, of scores [n] or, of classes, [n, classes]."""
    if scores.ndim == 1:
        return {SCORE: pa.array(scores, pa.float32())}
    lists = pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), scores.shape[1])
    return {
        SCORE: pa.array(scores.max(axis=1), pa.float32()),
        PREDICTED_CLASS: pa.array(scores.argmax(axis=1), pa.int32()),
        SCORES: lists.cast(pa.list_(pa.float32())),
    }


Forward = Callable[["Batch"], npt.NDArray[np.float32]]


def forward_of(predictor: Predictor, threads: int, in_bulk: bool = False) -> Forward:
    """What makes scores [b] of a batch, by the predictor's engine.

    Args:
        in_bulk: by the fastest products, whose last bits may differ from training's.
    """
    if predictor.onnx_url:
        from jobs.evaluate.predict.exported import inputs_of, loaded_onnx, scorer

        scores = scorer(loaded_onnx(predictor.onnx_url, predictor.onnx_digest, threads))
        return lambda batch: scores(inputs_of(batch))

    from jobs.models.build import predict
    from jobs.models.onednn import with_onednn

    model = predictor.model.model
    if in_bulk:
        model = with_onednn(model)
    return lambda batch: predict(model, batch).numpy()


@lru_cache(maxsize=2)
def loaded(folder_url: str, weights_digest: str, identity: Identity | None) -> LoadedModel:
    """Two are kept: champion and challenger."""
    return _as_registered(folder_url, weights_digest, identity, map_files=True)


def _as_registered(
    folder_url: str, weights_digest: str, identity: Identity | None, map_files: bool
) -> LoadedModel:
    from jobs.models.artifact import load_model

    model = load_model(folder_url, identity, map_files=map_files)
    if model.digest != weights_digest:
        raise DataRefused(
            f"the weights in {folder_url} have digest {model.digest}",
            f"digest {weights_digest}, which the registry names",
            "restore the model's folder, or use another version",
        )
    return model


def check_model(predictor: Predictor) -> None:
    """Loads the model here, so that a refusal is not buried in a worker's stack trace."""
    _ = predictor.model


def _task_cores() -> int:
    from pyspark import TaskContext

    context = TaskContext.get()
    return context.cpus() if context is not None else 1


def _rebatched(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The rows in tables of `rows` rows, the last one shorter; never an empty one."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = pa.Table.from_batches(held)
            yield table.slice(0, rows).combine_chunks()
            held = table.slice(rows).to_batches()
            count -= rows
    if count:
        yield pa.Table.from_batches(held).combine_chunks()
