"""Problems for TorchRec's sharded DLRM, and what it finds, in terms of our own."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jobs.batch.batch import Batch
from jobs.train.step.step import Step
from tests.builders.worlds import ROOT, interpreter


@dataclass(frozen=True)
class Found:
    """What it ends with.

    Attributes:
        weights: of the model, by our names; a table's rows one field after the other, as in ours.
        seconds: of each step.
    """

    weights: dict[str, Tensor]
    seconds: np.ndarray


def torchrecs(
    step: Step, batches: Sequence[Batch], optimizer: str, rate: float, folder: Path, turns: int = 1
) -> Found:
    """Trains our DLRM's weights, of one sharded table and one rank, by TorchRec.

    Args:
        step: of that model; its weights stay.
        folder: for files.
    """
    problem, found = folder / "problem.npz", folder / "found.npz"
    given = {"optimizer": optimizer, "rate": rate, "turns": turns}
    np.savez(problem, **_steps_of(step, batches), **_weights_of(step), **given)
    script = str(ROOT / "tests" / "builders" / "torchrec_dlrm.py")
    command = [interpreter("torchrec"), script, str(problem), str(found)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(found) as arrays:
        weights = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    seconds = weights.pop("seconds").numpy()
    return Found(_in_our_terms(step, weights), seconds)


def _steps_of(step: Step, batches: Sequence[Batch]) -> dict[str, Any]:
    numbers = step.model.net.inputs
    return {
        "inputs": np.stack([numbers(batch.dense).numpy() for batch in batches]),
        "ids": np.stack([batch.sparse.numpy() for batch in batches]),
        "labels": np.stack([batch.label.numpy() for batch in batches]),
    }


def _weights_of(step: Step) -> dict[str, Any]:
    net, (table,) = step.model.net, step.sharded.tables
    rows = table.piece.detach()[_places(step)]
    found = {f"table.{n}": _with_padding(of) for n, of in enumerate(_by_field(step, rows))}
    for kind in ("bottom", "top"):
        found |= {
            f"{kind}.{n}": of.detach() for n, of in enumerate(getattr(net, kind).parameters())
        }
    found["top.0"] = found["top.0"][:, _columns(net)]
    return {name: of.numpy() for name, of in found.items()}


def _in_our_terms(step: Step, found: dict[str, Tensor]) -> dict[str, Tensor]:
    net, (table,) = step.model.net, step.sharded.tables
    theirs = found["top.0"].clone()
    found["top.0"][:, _columns(net)] = theirs
    fields = [found[f"table.{n}"][1:] for n in range(len(net.embeddings.columns[0]))]
    weights = {table.name: _with_padding(torch.cat(fields))}
    for kind in ("bottom", "top"):
        for n, (name, _) in enumerate(getattr(net, kind).named_parameters()):
            weights[f"net.{kind}.{name}"] = found[f"{kind}.{n}"]
    return weights


def _places(step: Step) -> Tensor:
    """Of the table's rows in the one piece."""
    buckets = step.sharded.tables[0].buckets
    return torch.argsort(buckets.ids(0, 1))


def _by_field(step: Step, rows: Tensor) -> Sequence[Tensor]:
    limits: list[int] = step.model.net.embeddings.limits.tolist()
    return torch.split(rows[1:], [limit - 1 for limit in limits])


def _with_padding(rows: Tensor) -> Tensor:
    return torch.cat([rows.new_zeros(1, rows.shape[1]), rows])


def _columns(net: Any) -> Tensor:
    """Which of our top layer's inputs is each of theirs: they list pairs (i, j) with i < j."""
    vectors = len(net.embeddings.columns[0]) + 1
    dim = net.embeddings.dims[0]
    higher, lower = torch.tril_indices(vectors, vectors, offset=-1)
    number = torch.zeros(vectors, vectors, dtype=torch.int64)
    number[lower, higher] = torch.arange(len(lower))
    first, second = torch.triu_indices(vectors, vectors, offset=1)
    return torch.cat([torch.arange(dim), dim + number[first, second]])
