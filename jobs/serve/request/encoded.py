"""Encoded rows of a request: what shards hold, as tensors by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from jobs.batch.batch import Batch
from jobs.batch.layout import Layout
from jobs.batch.tensors import LENGTH
from jobs.evaluate.predict.exported import batch_of
from jobs.models.spec import ModelSpec
from jobs.serve.request.errors import RequestError
from jobs.serve.request.tensors import DATATYPES, NamedTensor
from schemas.dataset import Dataset

DENSE, SPARSE = "dense", "sparse"


@dataclass(frozen=True)
class EncodedRows:
    """Rows that need no judging.

    Attributes:
        batch: without labels.
    """

    batch: Batch

    @property
    def signature(self) -> object:
        """Rows of one signature may be scored together."""
        return "encoded"

    def __len__(self) -> int:
        return len(self.batch)


def input_kinds(dataset: Dataset, spec: ModelSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Datatype and shape, without the rows, of each input by name."""
    names = {kind: name for name, kind in DATATYPES.items()}
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        DENSE: ("FP32", (spec.num_dense,)),
        SPARSE: ("INT64", (len(spec.table_rows),)),
    }
    for name, like in sorted(Layout(dataset).padding().tensors.items()):
        kind = names[like.numpy().dtype.type]
        found[name] = (kind, tuple(like.shape[1:]))
    return found


def encoded_rows(tensors: Sequence[NamedTensor], dataset: Dataset, spec: ModelSpec) -> EncodedRows:
    """
    Raises:
        RequestError: an input is missing, not known, of another shape or type, or has ids that no
            table has.
    """
    given = {tensor.name: tensor for tensor in tensors}
    kinds = input_kinds(dataset, spec)
    optional = {name for name, (_, shape) in kinds.items() if math.prod(shape) == 0}
    if len(given) != len(tensors) or given.keys() - kinds.keys():
        raise RequestError(f"inputs must be each once: {', '.join(kinds)}")
    if missing := sorted(kinds.keys() - given.keys() - optional):
        raise RequestError(f"inputs are missing: {', '.join(missing)}")
    count = tensors[0].rows
    arrays = {name: _array(given.get(name), name, *kinds[name], count) for name in kinds}
    _check_ids(arrays, spec)
    inputs = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return EncodedRows(batch_of(inputs))


def _array(
    tensor: NamedTensor | None, name: str, datatype: str, shape: tuple[int, ...], count: int
) -> npt.NDArray[Any]:
    kind = DATATYPES[datatype]
    if tensor is None:
        return np.zeros((count, *shape), kind)
    wanted = (count, *shape)
    found = tensor.array() if isinstance(tensor.data, np.ndarray) else _with_nan(tensor, datatype)
    if tensor.shape != wanted or not np.can_cast(found.dtype, kind, "same_kind"):
        raise RequestError(
            f"input {name!r} is {tensor.datatype} {list(tensor.shape)}, not {datatype} "
            f"{list(wanted)}"
        )
    return found.astype(kind).copy()


def _with_nan(tensor: NamedTensor, datatype: str) -> npt.NDArray[Any]:
    """Numbers of JSON, where null stands for a missing one."""
    if datatype != "FP32" or any(isinstance(value, str | bytes) for value in tensor.data):
        raise RequestError(f"input {tensor.name!r} has values that are no numbers")
    values = [math.nan if value is None else value for value in tensor.data]
    try:
        return np.array(values, np.float32).reshape(tensor.shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"input {tensor.name!r} has values that are no numbers") from error


def _check_ids(arrays: Mapping[str, npt.NDArray[Any]], spec: ModelSpec) -> None:
    limits = {SPARSE: np.array(spec.table_rows, np.int64)}
    for name, (rows, _) in spec.id_lists.items():
        limits[name] = np.array([rows], np.int64)
    for name, most in limits.items():
        if arrays[name].size and ((arrays[name] < 0) | (arrays[name] >= most)).any():
            raise RequestError(f"input {name!r} has ids that the model has no rows for")
    for name, array in arrays.items():
        if name.endswith(LENGTH) and name.removesuffix(LENGTH) in arrays:
            longest = arrays[name.removesuffix(LENGTH)].shape[1]
            if ((array < 0) | (array > longest)).any():
                raise RequestError(f"input {name!r} has lengths that no list of its tensor has")
