"""One training step of a model, on one rank of several.

Each rank computes the gradient of the sum of the weighted losses of its rows, undivided. The ranks
sum these gradients and the weights, and divide once by the weight of the global batch. So the
result is the gradient of the global batch, for any number of ranks and any sizes of their pieces. A
rank whose piece has only padding adds nothing, but takes part in the exchange. A step may have
several batches: their gradients are summed before the exchange, as if their rows were one batch.

The step uses torch, and the exchange between ranks by its interface only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from jobs.base.errors import ConfigError
from jobs.batch.batch import Batch
from jobs.models.build import Model, embedding_tables, row_losses
from jobs.models.ties import refuse_overlaps, state_of
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Exchange
from jobs.train.exchange.pending import Pending
from jobs.train.exchange.rows import TableRows
from jobs.train.step.buffers import Buffers
from jobs.train.step.finite import measured
from jobs.train.step.optimizers import make_optimizers, update
from jobs.train.tables.table import ShardedTable
from jobs.train.tables.tables import Tables

# Sparse gradients are built from valid indices below, so that torch need not check them.
torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]


@dataclass
class StepResult:
    """What a step measured.

    Attributes:
        loss: weighted mean over the rows of the global batch, the same on all ranks.
        weight: sum of their weights, the same on all ranks.
        compute_s: seconds in which this rank computed.
        exchange_s: seconds in which it waited for other ranks.
    """

    loss: float
    weight: float
    compute_s: float
    exchange_s: float


class Step:
    """Trains a model, step by step.

    `train.optimizer` updates dense parameters, and its row-wise form (SGD, Adagrad or lazy Adam)
    those rows of embedding tables that the global batch uses. Weight decay, decoupled for Adam
    (AdamW), applies to dense parameters only.

    Args:
        model: on its device; its weights become rank 0's.
        exchange: between the ranks, which must all make a step.
        sharded: this rank's pieces of the model's sharded tables.

    Attributes:
        sharded: the same, which fetch rows for the model's forward passes.
        optimizers: that of the dense parameters, then that of the tables; each where there are any.

    Raises:
        ConfigError: a setting does not fit the model's task, or a table has too many rows.
    """

    def __init__(
        self,
        model: Model,
        settings: TrainSettings,
        exchange: Exchange,
        sharded: Sequence[ShardedTable] = (),
    ) -> None:
        refuse_unfit(settings, model, bool(sharded))
        self.model = model
        self.exchange = exchange
        self._settings = settings
        self._sent_dtype = _SENT_DTYPES[settings.wire_dtype]
        tables = {name for name, _ in embedding_tables(model)}
        parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self._dense = [p for n, p in parameters if n not in tables]
        self._tables = [(n, p) for n, p in parameters if n in tables]
        # Of the gradients, in the order in which a step has them.
        self._names = [n for n, _ in parameters if n not in tables] + [n for n, _ in self._tables]
        by_batch = settings.table_sums == "batch"
        self.sharded = Tables(model, sharded, exchange, self._sent_dtype, by_batch)
        pieces = [table.piece for table in sharded]
        of_tables = [p for _, p in self._tables] + pieces
        self.optimizers = make_optimizers(settings, self._dense, of_tables)
        self._base_rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        self._buffers = Buffers(model)
        self._started: dict[int, Pending[TableRows]] = {}
        self._is_last = False
        for number, (_, table) in enumerate(self._tables):
            table.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                partial(self._has_gradient, number)
            )
        # All, also those that are not trained, and buffers.
        exchange.broadcast(state_of(model).values())

    def run(self, *batches: Batch, rate: float = 1.0, upcoming: Sequence[Batch] = ()) -> StepResult:
        """One step over the rows of one batch, or of several together.

        Args:
            batches: this rank's pieces of global batches, on the CPU. To ask a GPU which rows are
                padding would wait for all of its work.
            rate: factor on the learning rate, see `schedule_factor`.
            upcoming: the batches of the next step, where they are known: on all ranks or on none.

        Raises:
            Diverged: the loss or the gradient of the global batch is not finite.
            ConfigError: the forward pass changes a buffer of the model.
        """
        started, waited_s = time.perf_counter(), self.exchange.waited_s
        self.model.train()
        self.sharded.fetch(batches, upcoming)
        loss_and_weight = self._backward_all(batches)
        sizes = self.sharded.start_gradients()
        dense = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._dense]
        sums = self.exchange.start_sums([*dense, loss_and_weight, sizes.to(loss_and_weight)])
        # Rows are merged while the sums are on their way.
        rows = [self._started[number].result() for number in range(len(self._tables))]
        own = self.sharded.merged()
        *dense, loss_and_weight, sizes = sums.result()
        gradients = [*dense, *(merged.values for merged in rows)]
        limit = self._settings.clip_norm
        found = measured(
            loss_and_weight,
            dict(zip(self._names, gradients, strict=True)),
            limit is not None,
            {table.name: size for table, size in zip(self.sharded.tables, sizes, strict=True)},
            None if limit is None else self.sharded.squares(own),
        )
        scale = 1 / found.weight
        if limit is not None and found.norm is not None:
            # The same formula as in torch.nn.utils.clip_grad_norm_.
            scale *= min(1.0, limit / (found.norm * scale + 1e-6))
        gradients += [merged.values for merged in own]
        if gradients:
            torch._foreach_mul_(gradients, scale)
        self._set_gradients(dense, [*rows, *own])
        self._update(rate)
        exchange_s = self.exchange.waited_s - waited_s
        compute_s = time.perf_counter() - started - exchange_s
        return StepResult(found.loss / found.weight, found.weight, compute_s, exchange_s)

    def _backward_all(self, batches: Sequence[Batch]) -> Tensor:
        """Computes the gradients of all batches, and starts the exchange of the tables' rows.

        Returns:
            [2]: the sums of the weighted losses and of the weights of this rank's rows.
        """
        found = []
        self._started = {}
        for number, batch in enumerate(batches, 1):
            self._is_last = number == len(batches)
            found.append(self._backward(batch))
        # The hooks stay on the model, which another `Step` may train.
        self._is_last = False
        for number in range(len(self._tables)):
            if number not in self._started:
                self._start_rows(number)
        loss_and_weight = torch.stack(found).sum(0)
        if loss_and_weight.is_cuda:
            # Otherwise the GPU's work would count as time of the exchange.
            torch.cuda.synchronize()
        return loss_and_weight

    def _has_gradient(self, number: int, _: Tensor) -> None:
        """Called by torch when a table has its gradient of a batch.

        Its rows are sent while the gradients of other parameters are computed.
        """
        if self._is_last:
            self._start_rows(number)

    def _start_rows(self, number: int) -> None:
        """Starts the exchange of the gradient's rows of table `number`."""
        name, table = self._tables[number]
        rows = gradient_rows(name, table)
        self._started[number] = self.exchange.start_rows(name, rows, self._sent_dtype)

    def _backward(self, batch: Batch) -> Tensor:
        """Adds the gradients of a batch's summed loss to those that parameters have.

        Returns:
            [2]: the sum of the weighted losses, and the sum of the weights.
        """
        reference, settings = next(self.model.parameters()), self._settings
        if not batch.rows:
            # A model of the user's own may not accept a piece without rows.
            return reference.new_zeros(2)
        batch = batch.to(reference.device)
        weight = batch.weight.to(reference.dtype)
        if settings.positive_weight != 1.0:
            weight = weight * torch.where(batch.label > 0.5, settings.positive_weight, 1.0)
        low = settings.precision == "bfloat16"
        with (
            self._buffers.unchanged(),
            torch.autocast(reference.device.type, torch.bfloat16, enabled=low),
        ):
            logits = self.model(batch)
        logits = logits.to(reference.dtype)
        losses = row_losses(logits, batch, self.model.task, settings.label_smoothing)
        loss = (losses * weight).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.stack([loss.detach(), weight.sum()])

    def _set_gradients(self, dense: list[Tensor], rows: Sequence[TableRows]) -> None:
        """Sets the parameters' gradients, of the global batch's mean loss.

        Args:
            dense: for each dense parameter.
            rows: for each embedding table, then for each piece of a sharded one.
        """
        for parameter, gradient in zip(self._dense, dense, strict=True):
            parameter.grad = gradient
        pieces = [table.piece for table in self.sharded.tables]
        for table, merged in zip([*(p for _, p in self._tables), *pieces], rows, strict=True):
            table.grad = torch.sparse_coo_tensor(
                merged.ids.unsqueeze(0), merged.values, table.shape, is_coalesced=True
            )

    def _update(self, rate: float) -> None:
        """Lets the optimizers update the parameters, and drops the gradients."""
        for optimizer, base_rate in zip(self.optimizers, self._base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = base_rate * rate
            update(optimizer)
            optimizer.zero_grad(set_to_none=True)


# Of an embedding table: ids are sent as int32.
_MOST_ROWS = 2**31 - 1
# By `train.wire_dtype`; None keeps the values as they are.
_SENT_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


def refuse_unfit(settings: TrainSettings, model: Model, sharded: bool) -> None:
    """Checks the model's parameters, and settings that only some tasks, or sharded tables, have.

    Raises:
        ConfigError: a table has too many rows, parameters overlap, or a setting is not for the
            model's task, or for replicated tables.
    """
    refuse_overlaps(model)
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
    if settings.table_dtype != "float32" and settings.tables == "replicated" and not sharded:
        raise ConfigError(
            f"train.table_dtype is {settings.table_dtype}, and train.tables is replicated",
            "sharded tables, which are those that do not fit",
            "set train.tables to sharded, or leave train.table_dtype at float32",
        )
    if unfit:
        raise ConfigError(
            f"train.{unfit[0]} is set, but the label's task is {model.task}",
            remedy=f"leave train.{unfit[0]} at its default",
        )


def gradient_rows(name: str, table: Tensor) -> TableRows:
    """The rows of a table's gradient, an id for each lookup; no rows where it has no gradient.

    Raises:
        ConfigError: the gradient is dense.
    """
    if table.grad is None:
        no_ids = torch.empty(0, dtype=torch.int64, device=table.device)
        return TableRows(no_ids, table.new_empty((0, table.shape[1])))
    if not table.grad.is_sparse:
        raise ConfigError(
            f"the gradient of embedding table {name!r} is dense",
            "tables that are used through their own forward (nn.Embedding, nn.EmbeddingBag in mode "
            "sum or mean)",
            "where another layer uses it too, tie them: layer.weight = table.weight",
        )
    return TableRows(table.grad._indices()[0], table.grad._values())
