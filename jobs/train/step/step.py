"""One training step: torch, and an exchange between ranks that it knows only by its interface.

Every rank sums the weighted losses of its piece, without dividing. The ranks add up gradients and
weights, and divide once by the weight of the global batch. So the gradient is that of the global
batch, for any number of ranks and pieces of any size, and a rank whose piece is padding
contributes nothing, but takes part. A step may take several batches: their gradients add up before
the one exchange, and it equals a step of all their rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from jobs.base.errors import ConfigError, MillstreamError
from jobs.batch.batch import Batch
from jobs.models.build import Model, embedding_tables, row_losses
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Exchange, PendingRows
from jobs.train.exchange.rows import TableRows
from jobs.train.step.optimizers import make_optimizers

# Sparse gradients are built from indices that were made here, so checking them buys nothing.
torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]


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
    """Trains a model, step by step.

    Dense parameters are updated by `train.optimizer`, embedding tables by its row-wise kind,
    which touches the rows of the global batch only: SGD, Adagrad, or lazy Adam. Weight decay
    (for Adam, decoupled: AdamW) leaves embedding tables alone.

    Attributes:
        optimizers: of the dense parameters, then of the tables; where there are any.

    Raises:
        ConfigError: a setting is not for the model's task.
    """

    def __init__(self, model: Model, settings: TrainSettings, exchange: Exchange) -> None:
        _refuse_unfit(settings, model)
        self.model = model
        self.exchange = exchange
        self._settings = settings
        self._wire = _WIRE_DTYPES[settings.wire_dtype]
        tables = {name for name, _ in embedding_tables(model)}
        parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self._dense = [p for n, p in parameters if n not in tables]
        self._tables = [(n, p) for n, p in parameters if n in tables]
        self.optimizers = make_optimizers(settings, self._dense, [p for _, p in self._tables])
        self._base_rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        self._started: dict[int, PendingRows] = {}
        self._is_last = False
        for number, (_, table) in enumerate(self._tables):
            table.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                partial(self._has_gradient, number)
            )
        exchange.start_equal(p.data for _, p in parameters)

    def run(self, *batches: Batch, rate: float = 1.0) -> StepResult:
        """One step over the rows of one batch, or of several together.

        Args:
            batches: this rank's pieces of global batches, on the CPU: asking a GPU which rows are
                padding would wait for all that it has to do.
            rate: factor on the learning rate, from the schedule.

        Raises:
            Diverged: the loss of the global batch is not finite.
        """
        started, waited_s = time.perf_counter(), self.exchange.waited_s
        self.model.train()
        loss_and_weight = self._backward_all(batches)
        dense = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._dense]
        sums = self.exchange.start_sums([*dense, loss_and_weight])
        # Merged while the sums travel.
        rows = [self._started[number]() for number in range(len(self._tables))]
        *dense, loss_and_weight = sums()
        loss, weight = loss_and_weight.tolist()
        if not math.isfinite(loss) or weight <= 0:
            raise Diverged(
                f"the loss of a batch of weight {weight:g} is {loss}",
                "a finite loss",
                "lower train.learning_rate, or look for absurd values in the inputs",
            )
        self._set_gradients(dense, rows, weight)
        self._update(rate)
        exchange_s = self.exchange.waited_s - waited_s
        compute_s = time.perf_counter() - started - exchange_s
        return StepResult(loss / weight, weight, compute_s, exchange_s)

    def _backward_all(self, batches: Sequence[Batch]) -> Tensor:
        """The gradients of all batches, and the rows of all tables on their way to the other
        ranks; returns the sums of losses and weights, [2]."""
        found = []
        self._started = {}
        for number, batch in enumerate(batches, 1):
            self._is_last = number == len(batches)
            found.append(self._backward(batch))
        # Another step may train the same model.
        self._is_last = False
        for number in range(len(self._tables)):
            if number not in self._started:
                self._start_rows(number)
        loss_and_weight = torch.stack(found).sum(0)
        if loss_and_weight.is_cuda:
            # What the GPU still computes would count as the exchange's time.
            torch.cuda.synchronize()
        return loss_and_weight

    def _has_gradient(self, number: int, _: Tensor) -> None:
        """Its rows travel while the gradients of other parameters are computed."""
        if self._is_last:
            self._start_rows(number)

    def _start_rows(self, number: int) -> None:
        name, table = self._tables[number]
        rows = gradient_rows(name, table)
        self._started[number] = self.exchange.start_rows(name, rows, self._wire)

    def _backward(self, batch: Batch) -> Tensor:
        """Adds the gradients of the summed loss; returns that loss and the weight, [2]."""
        reference, settings = next(self.model.parameters()), self._settings
        if not batch.rows:
            # No forward: a model of the user's own may not take a piece without rows.
            return reference.new_zeros(2)
        batch = batch.to(reference.device)
        weight = batch.weight.to(reference.dtype)
        if settings.positive_weight != 1.0:
            weight = weight * torch.where(batch.label > 0.5, settings.positive_weight, 1.0)
        low = settings.precision == "bfloat16"
        with torch.autocast(reference.device.type, torch.bfloat16, enabled=low):
            logits = self.model(batch)
        logits = logits.to(reference.dtype)
        losses = row_losses(logits, batch, self.model.task, settings.label_smoothing)
        loss = (losses * weight).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.stack([loss.detach(), weight.sum()])

    def _set_gradients(self, dense: list[Tensor], rows: Sequence[TableRows], weight: float) -> None:
        """Sets the gradients of the mean loss, cut to `train.clip_norm` together."""
        gradients = [*dense, *(merged.values for merged in rows)]
        scale, limit = 1 / weight, self._settings.clip_norm
        if limit is not None:
            norm = float(torch.nn.utils.get_total_norm(gradients)) * scale
            # As torch.nn.utils.clip_grad_norm_ does.
            scale *= min(1.0, limit / (norm + 1e-6))
        torch._foreach_mul_(gradients, scale)
        for parameter, gradient in zip(self._dense, dense, strict=True):
            parameter.grad = gradient
        for (_, table), merged in zip(self._tables, rows, strict=True):
            table.grad = torch.sparse_coo_tensor(
                merged.ids.unsqueeze(0), merged.values, table.shape, is_coalesced=True
            )

    def _update(self, rate: float) -> None:
        for optimizer, base_rate in zip(self.optimizers, self._base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = base_rate * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


_MOST_ROWS = 2**31 - 1
_WIRE_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _refuse_unfit(settings: TrainSettings, model: Model) -> None:
    for name, table in embedding_tables(model):
        if len(table.weight) > _MOST_ROWS:
            raise ConfigError(
                f"embedding table {name!r} has {len(table.weight):,} rows",
                f"at most {_MOST_ROWS:,}",
            )
    unfit = [
        name
        for name, neutral, tasks in (
            ("label_smoothing", 0.0, ("binary", "multiclass")),
            ("positive_weight", 1.0, ("binary",)),
        )
        if getattr(settings, name) != neutral and model.task not in tasks
    ]
    if unfit:
        raise ConfigError(
            f"train.{unfit[0]} is set, but the label's task is {model.task}",
            remedy=f"leave train.{unfit[0]} at its default",
        )


def gradient_rows(name: str, table: Tensor) -> TableRows:
    """The rows of a table's gradient, as lookups made them; none where it has no gradient.

    Raises:
        ValueError: the gradient is dense.
    """
    if table.grad is None:
        no_ids = torch.empty(0, dtype=torch.int64, device=table.device)
        return TableRows(no_ids, table.new_empty((0, table.shape[1])))
    if not table.grad.is_sparse:
        raise ValueError(
            f"the gradient of embedding table {name!r} is dense; a table must be used through its "
            "own forward alone (nn.Embedding, nn.EmbeddingBag in mode sum or mean)"
        )
    return TableRows(table.grad._indices()[0], table.grad._values())
