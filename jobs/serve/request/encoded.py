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
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class EncodedRows:
    """Rows that need no judging.

    Attributes:
        arrays: of each input, rows first.
    """

    arrays: Arrays

    @property
    def signature(self) -> object:
        """Rows of one signature may be scored together."""
        return "encoded"

    def __len__(self) -> int:
        return len(self.arrays[DENSE])

    def batch(self) -> Batch:
        """The rows without labels."""
        return batch_of({name: torch.from_numpy(array) for name, array in self.arrays.items()})

    @staticmethod
    def together(parts: Sequence[EncodedRows]) -> EncodedRows:
        """The rows of several requests, one after the other."""
        names = parts[0].arrays
        return EncodedRows(
            {name: np.concatenate([part.arrays[name] for part in parts]) for name in names}
        )


class EncodedInputs:
    """What a model takes as encoded rows.

    Attributes:
        kinds: datatype and shape, without the rows, of each input by name.
    """

    def __init__(self, dataset: Dataset, spec: ModelSpec) -> None:
        names = {kind: name for name, kind in DATATYPES.items()}
        self.kinds: dict[str, tuple[str, tuple[int, ...]]] = {
            DENSE: ("FP32", (spec.num_dense,)),
            SPARSE: ("INT64", (len(spec.table_rows),)),
        }
        for name, like in sorted(Layout(dataset, spec.columns(dataset)).padding().tensors.items()):
            self.kinds[name] = (names[like.numpy().dtype.type], tuple(like.shape[1:]))
        self._optional = {name for name, (_, shape) in self.kinds.items() if not math.prod(shape)}
        self._table_rows = {SPARSE: np.array(spec.table_rows, np.uint64)}
        for name, (rows, _) in spec.id_lists.items():
            self._table_rows[name] = np.array([rows], np.uint64)
        self._longest = {
            name: np.uint64(self.kinds[name.removesuffix(LENGTH)][1][0])
            for name in self.kinds
            if name.endswith(LENGTH) and name.removesuffix(LENGTH) in self.kinds
        }

    def rows(self, tensors: Sequence[NamedTensor]) -> EncodedRows:
        """
        Raises:
            RequestError: an input is missing, not known, of another shape or type, or has ids that
                no table has.
        """
        given = {tensor.name: tensor for tensor in tensors}
        if len(given) != len(tensors) or given.keys() - self.kinds.keys():
            raise RequestError(f"inputs must be each once: {', '.join(self.kinds)}")
        if missing := sorted(self.kinds.keys() - given.keys() - self._optional):
            raise RequestError(f"inputs are missing: {', '.join(missing)}")
        count = tensors[0].rows
        arrays = {
            name: _array(given.get(name), name, datatype, (count, *shape))
            for name, (datatype, shape) in self.kinds.items()
        }
        self._check_ids(arrays)
        return EncodedRows(arrays)

    def _check_ids(self, arrays: Arrays) -> None:
        # Without a sign a negative number is larger than any limit.
        for name, most in self._table_rows.items():
            if (arrays[name].view(np.uint64) >= most).any():
                raise RequestError(f"input {name!r} has ids that the model has no rows for")
        for name, longest in self._longest.items():
            if (arrays[name].view(np.uint64) > longest).any():
                raise RequestError(f"input {name!r} has lengths that no list of its tensor has")


def _array(
    tensor: NamedTensor | None, name: str, datatype: str, wanted: tuple[int, ...]
) -> npt.NDArray[Any]:
    """The input's values in memory of their own; zeros of one that may be absent."""
    kind = DATATYPES[datatype]
    if tensor is None:
        return np.zeros(wanted, kind)
    found = tensor.data if isinstance(tensor.data, np.ndarray) else _with_nan(tensor, datatype)
    if tensor.shape != wanted or not np.can_cast(found.dtype, kind, "same_kind"):
        raise RequestError(
            f"input {name!r} is {tensor.datatype} {list(tensor.shape)}, not {datatype} "
            f"{list(wanted)}"
        )
    return np.array(found, kind)


def _with_nan(tensor: NamedTensor, datatype: str) -> npt.NDArray[Any]:
    """Numbers of JSON, where null stands for a missing one."""
    if datatype != "FP32" or any(isinstance(value, str | bytes) for value in tensor.data):
        raise RequestError(f"input {tensor.name!r} has values that are no numbers")
    values = [math.nan if value is None else value for value in tensor.data]
    try:
        return np.array(values, np.float32).reshape(tensor.shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"input {tensor.name!r} has values that are no numbers") from error
