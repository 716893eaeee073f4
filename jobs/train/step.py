"""One training step: torch, and an exchange between ranks that it knows only by its interface.

Every rank sums the weighted losses of its piece, without dividing. The ranks add up gradients and
weights, and divide once by the weight of the global batch. So the gradient is that of the global
batch, for any number of ranks and pieces of any size, and a rank whose piece is padding
contributes nothing, but takes part.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from jobs.errors import MillstreamError
from jobs.sections import TrainSettings
from jobs.train.batch import Batch
from jobs.train.models import Model, embedding_tables, row_losses

# Sparse gradients are built from indices that were made here, so checking them buys nothing.
torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Rows:
    """Some rows of a table: those that a piece touched, each once.

    Attributes:
        ids: int64 [r], ascending.
        values: [r, E].
    """

    ids: Tensor
    values: Tensor


class Exchange(Protocol):
    """How ranks add up. Every rank calls the same methods in the same order.

    Attributes:
        rank, size: this rank, and how many there are.
        bytes_sent: by this rank, so far.
    """

    rank: int
    size: int
    bytes_sent: int

    def merge(
        self, tensors: Sequence[Tensor], tables: Sequence[Rows] = ()
    ) -> tuple[list[Tensor], list[Rows]]:
        """Adds up the tensors and collects the rows of all ranks, in one round.

        Args:
            tensors: at least one, all of one dtype; the same shapes on all ranks.
            tables: of this rank, one piece a table; any number of rows.

        Returns:
            The sums, and for each table the rows of all ranks, one rank's after the other's.
        """

    def start_equal(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites the tensors with those of rank 0."""


class Alone:
    """The exchange of a single rank."""

    rank = 0
    size = 1
    bytes_sent = 0

    def merge(
        self, tensors: Sequence[Tensor], tables: Sequence[Rows] = ()
    ) -> tuple[list[Tensor], list[Rows]]:
        return list(tensors), list(tables)

    def start_equal(self, tensors: Iterable[Tensor]) -> None:
        pass


class Diverged(MillstreamError):
    """The loss is no number any more; all ranks see the same one and stop together."""


@dataclass
class StepResult:
    """Of a global batch, the same on all ranks, and where this rank's time went (seconds)."""

    loss: float
    weight: float
    compute_s: float
    exchange_s: float


class Step:
    """Trains a model, batch by batch.

    Dense parameters are updated by `train.optimizer`, embedding tables by its row-wise kind,
    which touches the rows of the global batch only: SGD, Adagrad, or lazy Adam. Weight decay
    (for Adam, decoupled: AdamW) leaves embedding tables alone.
    """

    def __init__(self, model: Model, settings: TrainSettings, exchange: Exchange) -> None:
        self.model = model
        self.exchange = exchange
        tables = {name for name, _ in embedding_tables(model)}
        parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self._dense = [p for n, p in parameters if n not in tables]
        self._tables = [(n, p) for n, p in parameters if n in tables]
        self.optimizers = _optimizers(settings, self._dense, [p for _, p in self._tables])
        self._base_rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        exchange.start_equal(p.data for _, p in parameters)

    def run(self, batch: Batch, rate: float = 1.0) -> StepResult:
        """One step.

        Args:
            batch: this rank's piece of the global batch.
            rate: factor on the learning rate, from the schedule.

        Raises:
            Diverged: the loss of the global batch is not finite.
        """
        started = time.perf_counter()
        self.model.train()
        loss_and_weight = self._backward(batch)
        dense = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._dense]
        rows = [touched_rows(name, table) for name, table in self._tables]

        sending = time.perf_counter()
        (*dense, loss_and_weight), rows = self.exchange.merge([*dense, loss_and_weight], rows)
        received = time.perf_counter()

        loss, weight = loss_and_weight.tolist()
        if not math.isfinite(loss) or weight <= 0:
            raise Diverged(
                f"the loss of a batch of weight {weight:g} is {loss}",
                "a finite loss",
                "lower train.learning_rate, or look for absurd values in the inputs",
            )
        self._set_gradients(dense, rows, weight)
        self._update(rate)
        done = time.perf_counter()
        exchange_s = received - sending
        return StepResult(loss / weight, weight, done - started - exchange_s, exchange_s)

    def _backward(self, batch: Batch) -> Tensor:
        """Leaves the gradients of the summed loss; returns that loss and the weight, [2]."""
        reference = next(self.model.parameters())
        if not batch.rows:
            # No forward: a model of the user's own may not take a piece without rows.
            return reference.new_zeros(2)
        weight = batch.weight.to(reference.dtype)
        loss = (row_losses(self.model(batch), batch, self.model.task) * weight).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.stack([loss.detach().to(reference.dtype), weight.sum()])

    def _set_gradients(self, dense: Sequence[Tensor], rows: Sequence[Rows], weight: float) -> None:
        for parameter, gradient in zip(self._dense, dense, strict=True):
            parameter.grad = gradient / weight
        for (_, table), pieces in zip(self._tables, rows, strict=True):
            table.grad = torch.sparse_coo_tensor(
                pieces.ids.unsqueeze(0), pieces.values / weight, table.shape
            ).coalesce()

    def _update(self, rate: float) -> None:
        for optimizer, base_rate in zip(self.optimizers, self._base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = base_rate * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def touched_rows(name: str, table: Tensor) -> Rows:
    """The rows of a table's gradient, duplicates added up; none where it has no gradient."""
    if table.grad is None:
        no_ids = torch.empty(0, dtype=torch.int64, device=table.device)
        return Rows(no_ids, table.new_empty((0, table.shape[1])))
    if not table.grad.is_sparse:
        raise ValueError(
            f"the gradient of embedding table {name!r} is dense; a table must be used through its "
            "own forward alone (nn.Embedding, nn.EmbeddingBag in mode sum or mean)"
        )
    gradient = table.grad.coalesce()
    return Rows(gradient.indices()[0], gradient.values())


_OPTIMIZERS: dict[str, tuple[Any, Any]] = {
    "sgd": (torch.optim.SGD, torch.optim.SGD),
    "adagrad": (torch.optim.Adagrad, torch.optim.Adagrad),
    "adam": (torch.optim.AdamW, torch.optim.SparseAdam),
}


def _optimizers(
    settings: TrainSettings, dense: list[nn.Parameter], tables: list[nn.Parameter]
) -> list[torch.optim.Optimizer]:
    of_dense, of_tables = _OPTIMIZERS[settings.optimizer]
    rate, made = settings.learning_rate, []
    if dense:
        made.append(of_dense(dense, lr=rate, weight_decay=settings.weight_decay))
    if tables:
        made.append(of_tables(tables, lr=rate))
    return made


def schedule_factor(settings: TrainSettings, row: float, total_rows: int) -> float:
    """Factor on the learning rate at a row of the whole training: linear warm-up, then the shape.

    Args:
        row: rows consumed, all epochs and ranks together; the middle of a batch gives neither 0
            at the start nor 0 at the end.
        total_rows: of all epochs.
    """
    if row < settings.warmup_rows:
        return row / settings.warmup_rows
    if settings.schedule == "constant":
        return 1.0
    share = (row - settings.warmup_rows) / max(1, total_rows - settings.warmup_rows)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
