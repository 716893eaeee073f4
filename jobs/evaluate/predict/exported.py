"""Scores by an exported model: the inputs that it takes, and ONNX Runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jobs.base.errors import ConfigError, DataRefused
from jobs.batch.batch import Batch

Inputs = dict[str, Tensor]


def batch_of(inputs: Mapping[str, Tensor]) -> Batch:
    """A batch without labels, of encoded inputs by name."""
    # shape, as len() would fix the number of rows in an exported model.
    zeros = torch.zeros(inputs["dense"].shape[0], dtype=torch.int64)
    return Batch(
        dense=inputs["dense"],
        sparse=inputs["sparse"],
        label=zeros.float(),
        weight=zeros.float(),
        row_id=zeros,
        is_row=zeros.bool(),
        position=zeros,
        tensors={name: t for name, t in inputs.items() if name not in ("dense", "sparse")},
    )


def inputs_of(batch: Batch) -> Inputs:
    """Encoded inputs of a batch by name, in the order of the exported file."""
    return {"dense": batch.dense, "sparse": batch.sparse, **dict(sorted(batch.tensors.items()))}


def session(model: bytes | str, threads: int) -> Any:
    """ONNX Runtime's session of a model, by content or path.

    Raises:
        ConfigError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "ONNX Runtime is not installed", remedy="pip install 'millstream[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@lru_cache(maxsize=2)
def loaded_onnx(url: str, digest: str, threads: int) -> Any:
    """ONNX Runtime's session of an exported model, made once a process.

    Raises:
        DataRefused: the file is not the one that the driver exported.
    """
    with fsspec.open(url, "rb") as file:
        content: bytes = file.read()
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise DataRefused(
            f"{url} has digest {found}", f"digest {digest}", "remove it; it is made again"
        )
    return session(content, threads)


def scorer(runtime: Any) -> Callable[[Inputs], npt.NDArray[np.float32]]:
    """What makes scores [b]; inputs that the model does not use were left out of the file."""
    names = [one.name for one in runtime.get_inputs()]

    def scores(inputs: Inputs) -> npt.NDArray[np.float32]:
        given = {name: inputs[name].numpy() for name in names}
        found: npt.NDArray[np.float32] = runtime.run(["score"], given)[0]
        return found

    return scores
