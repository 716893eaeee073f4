"""Petastorm 0.12 on today's Arrow and NumPy: the only module that imports Petastorm.

Import this module before Petastorm; then a team's own Petastorm code runs too. How it is made to
is in `jobs.petastorm_legacy`.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import types

from jobs.petastorm_legacy import hook
from schemas.dataset import Dataset, StoredColumn
from schemas.field import Image

hook.install()

from petastorm.codecs import (  # noqa: E402
    CompressedImageCodec,
    CompressedNdarrayCodec,
    NdarrayCodec,
    ScalarCodec,
)
from petastorm.etl.dataset_metadata import ROW_GROUPS_PER_FILE_KEY, UNISCHEMA_KEY  # noqa: E402
from petastorm.etl.legacy import RestrictedUnpickler  # noqa: E402
from petastorm.unischema import Unischema, UnischemaField  # noqa: E402
from petastorm.workers_pool import EmptyResultError  # noqa: E402
from petastorm.workers_pool.thread_pool import ThreadPool  # noqa: E402
from petastorm.workers_pool.ventilator import ConcurrentVentilator  # noqa: E402
from petastorm.workers_pool.worker_base import WorkerBase  # noqa: E402


def unischema(dataset: Dataset, partitions: Sequence[str] = ()) -> Any:
    """A data set's stored columns, then the partitions, as Petastorm's Unischema.

    Images have Petastorm's codec. Arrays are stored as Parquet's own lists, which other engines
    read too: they have no codec and come as one dimension, in row-major order.
    """
    fields = [_unischema_field(c) for c in dataset.stored_columns()]
    fields += [UnischemaField(name, np.str_, (), None, False) for name in partitions]
    return Unischema(dataset.name, fields)


def _unischema_field(column: StoredColumn) -> Any:
    codec = CompressedImageCodec(column.image_format) if column.image_format else None
    dtype = np.dtype(column.numpy_dtype).type
    shape = column.shape
    if codec is None and shape and None not in shape:
        shape = (math.prod(filter(None, shape)),)
    return UnischemaField(column.name, dtype, shape, codec, column.nullable)


def common_metadata(
    dataset: Dataset, schema: pa.Schema, partitions: Sequence[str], row_groups: Mapping[str, int]
) -> bytes:
    """The file `_common_metadata` with which `petastorm.make_reader` opens a folder.

    It holds a pickle, as Petastorm wants it, of Petastorm's, NumPy's and Python's classes alone.

    Args:
        schema: of the Parquet files.
        partitions: names of the folders' levels that become columns.
        row_groups: of each file, by its path in the folder.
    """
    own = {
        UNISCHEMA_KEY: pickle.dumps(unischema(dataset, partitions), protocol=4),
        ROW_GROUPS_PER_FILE_KEY: json.dumps(dict(row_groups)).encode(),
    }
    sink = pa.BufferOutputStream()
    pq.write_metadata(schema.with_metadata(own), sink)
    return bytes(sink.getvalue())


def image_decoder(field: Image) -> Callable[[bytes], npt.NDArray[np.uint8]]:
    """A function from an image's bytes to its pixels, uint8 [H, W] or [H, W, 3], by the codec."""
    codec = CompressedImageCodec(field.format)
    column = UnischemaField(field.name, np.uint8, field.shape, codec, False)

    def decode(content: bytes) -> npt.NDArray[np.uint8]:
        try:
            return np.asarray(codec.decode(column, content), np.uint8)
        except AttributeError as error:
            # OpenCV gives None for what it cannot decode, and the codec asks that for its shape.
            raise ValueError(f"its {len(content)} bytes are no image") from error

    return decode


@dataclass(frozen=True)
class CodecColumn:
    """A column of others' Petastorm data whose values a codec stores as bytes.

    Attributes:
        shape: of each value; empty where they are lists of any length.
        image: whether its values are images, uint8 [H, W] or [H, W, 3]; `format` is then theirs.
        decode: from bytes to the value.
    """

    shape: tuple[int, ...]
    image: bool
    format: str
    decode: Callable[[bytes], npt.NDArray[Any]]


def codec_columns(metadata: Mapping[bytes, bytes]) -> dict[str, CodecColumn]:
    """Columns of arrays and images with codecs, by the Unischema in a `_common_metadata`.

    Their shapes are full, or one length that varies; others are left out.

    Raises:
        pickle.UnpicklingError: it holds more than what describes columns, or something else.
    """
    if UNISCHEMA_KEY not in metadata:
        return {}
    try:
        return _described(metadata[UNISCHEMA_KEY])
    except pickle.UnpicklingError:
        raise
    except Exception as error:
        # Whatever a stranger's bytes make of the classes that they may name.
        raise pickle.UnpicklingError(f"no pickle of a Unischema: {error}") from error


def _described(content: bytes) -> dict[str, CodecColumn]:
    schema = _SchemaUnpickler(io.BytesIO(content)).load()
    return {
        name: _codec_column(field)
        for name, field in schema.fields.items()
        if isinstance(field.codec, CompressedImageCodec | NdarrayCodec | CompressedNdarrayCodec)
        and field.shape
        and (None not in field.shape or field.shape == (None,))
    }


def _codec_column(field: Any) -> CodecColumn:
    codec = field.codec
    format_ = codec.image_codec if isinstance(codec, CompressedImageCodec) else ""
    image = bool(format_) and np.dtype(field.numpy_dtype) == np.uint8
    shape = () if None in field.shape else tuple(field.shape)
    return CodecColumn(shape, image, format_, partial(codec.decode, field))


class _SchemaUnpickler(RestrictedUnpickler):  # type: ignore[misc]
    """Petastorm's restricted unpickler, and of its packages only what describes columns.

    By itself it admits all of `builtins`, `eval` among them.
    """

    _ALLOWED: ClassVar[dict[str, set[str]]] = {
        "builtins": {"bool", "bytes", "float", "frozenset", "int", "list", "object", "set", "str"},
        "collections": {"OrderedDict"},
        "copy_reg": {"_reconstructor"},
        "decimal": {"Decimal"},
        "petastorm.codecs": {
            "CompressedImageCodec", "CompressedNdarrayCodec", "NdarrayCodec", "ScalarCodec"
        },
        "petastorm.unischema": {"Unischema", "UnischemaField"},
    }  # fmt: skip
    # Data written by Python 2 and the first versions of Petastorm.
    _RENAMED: ClassVar[dict[str, str]] = {
        "__builtin__": "builtins",
        "av.ml.dataset_toolkit.codecs": "petastorm.codecs",
        "av.ml.dataset_toolkit.unischema": "petastorm.unischema",
        "av.experimental.deepdrive.dataset_toolkit.codecs": "petastorm.codecs",
        "av.experimental.deepdrive.dataset_toolkit.unischema": "petastorm.unischema",
    }
    _NUMPY: ClassVar[dict[str, str]] = {"unicode_": "str_", "string_": "bytes_"}

    def find_class(self, module: str, name: str) -> Any:
        module = self._RENAMED.get(module, module)
        if module == "numpy":
            name = self._NUMPY.get(name, name)
            found = getattr(np, name, None)
            is_scalar = isinstance(found, type) and issubclass(found, np.generic)
            allowed = is_scalar or name == "dtype"
        elif module == "pyspark.sql.types":
            # By its own name: since protocol 4 a pickle names what lies inside of others, too.
            found = getattr(types, name, None)
            allowed = isinstance(found, type) and issubclass(found, types.DataType)
        else:
            allowed = name in self._ALLOWED.get(module, ())
        if not allowed:
            raise pickle.UnpicklingError(f"{module}.{name} describes no column")
        return super().find_class(module, name)


__all__ = [
    "CodecColumn",
    "CompressedImageCodec",
    "ConcurrentVentilator",
    "EmptyResultError",
    "NdarrayCodec",
    "ScalarCodec",
    "ThreadPool",
    "Unischema",
    "UnischemaField",
    "WorkerBase",
    "codec_columns",
    "common_metadata",
    "image_decoder",
    "unischema",
]
