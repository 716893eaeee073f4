"""Petastorm 0.12 on today's Arrow and NumPy: the only module that imports Petastorm.

Import this module before Petastorm; then a team's own Petastorm code runs too. How it is made to
is in `jobs.petastorm_legacy`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.petastorm_legacy import hook
from schemas.dataset import Dataset, StoredColumn
from schemas.field import Image

hook.install()

from petastorm.codecs import CompressedImageCodec, NdarrayCodec, ScalarCodec  # noqa: E402
from petastorm.unischema import Unischema, UnischemaField  # noqa: E402
from petastorm.workers_pool import EmptyResultError  # noqa: E402
from petastorm.workers_pool.thread_pool import ThreadPool  # noqa: E402
from petastorm.workers_pool.ventilator import ConcurrentVentilator  # noqa: E402
from petastorm.workers_pool.worker_base import WorkerBase  # noqa: E402


def unischema(dataset: Dataset) -> Any:
    """A data set's stored columns as Petastorm's Unischema."""
    return Unischema(dataset.name, [_unischema_field(c) for c in dataset.stored_columns()])


def _unischema_field(column: StoredColumn) -> Any:
    codec = CompressedImageCodec(column.image_format) if column.image_format else None
    dtype = np.dtype(column.numpy_dtype).type
    return UnischemaField(column.name, dtype, column.shape, codec, column.nullable)


def image_decoder(field: Image) -> Callable[[bytes], npt.NDArray[np.uint8]]:
    """A function from an image's bytes to its pixels, uint8 [H, W] or [H, W, 3], by the codec."""
    codec = CompressedImageCodec(field.format)
    column = UnischemaField(field.name, np.uint8, field.shape, codec, False)

    def decode(content: bytes) -> npt.NDArray[np.uint8]:
        return np.asarray(codec.decode(column, content), np.uint8)

    return decode


__all__ = [
    "CompressedImageCodec",
    "ConcurrentVentilator",
    "EmptyResultError",
    "NdarrayCodec",
    "ScalarCodec",
    "ThreadPool",
    "Unischema",
    "UnischemaField",
    "WorkerBase",
    "image_decoder",
    "unischema",
]
