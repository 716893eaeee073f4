"""One training step of a model, on one rank of several.

Each rank computes the gradient of the sum of the weighted losses of its rows, undivided. The ranks
sum these gradients and the weights, and divide once by the weight of the global batch. So the
result is the gradient of the global batch, for any number of ranks and any sizes of their pieces. A
rank whose piece has only padding adds nothing, but takes part in the exchange. A step may have
several batches: their gradients are summed before the exchange, as if their rows were one batch.
With `train.gradient_slices`, the gradients are computed slice by slice, and added up in an order
that is the same at any number of ranks, and so are the bits of the result.

The step uses torch, and the exchange between ranks by its interface only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from jobs.base.errors import ConfigError
from jobs.batch.batch import Batch
from jobs.models.build import Model, embedding_tables
from jobs.models.ties import refuse_overlaps, state_of
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Exchange
from jobs.train.exchange.ordered import PartialSums
from jobs.train.exchange.rows import TableRows
from jobs.train.order.slices import Slices
from jobs.train.step.backward import SENT_DTYPES, Backward
from jobs.train.step.finite import measured
from jobs.train.step.optimizers import make_optimizers, update
from jobs.train.step.parts import Cutter
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
        slices: this rank's, where `train.gradient_slices` asks for them.

    Attributes:
        sharded, slices: the same; the tables fetch rows for the model's forward passes.
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
        slices: Slices | None = None,
    ) -> None:
        refuse_unfit(settings, model, bool(sharded))
        assert (slices is not None) == (settings.gradient_slices > 1)
        self.model, self.exchange, self.slices = model, exchange, slices
        self._settings, self._cutter = settings, Cutter(slices)
        tables = {name for name, _ in embedding_tables(model)}
        parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self._dense = [p for n, p in parameters if n not in tables]
        self._tables = [(n, p) for n, p in parameters if n in tables]
        # Of the gradients, in the order in which a step has them.
        self._names = [n for n, _ in parameters if n not in tables] + [n for n, _ in self._tables]
        by_batch = settings.table_sums == "batch" or slices is not None
        sent_dtype = SENT_DTYPES[settings.wire_dtype]
        self.sharded = Tables(model, sharded, exchange, sent_dtype, by_batch)
        pieces = [table.piece for table in sharded]
        of_tables = [p for _, p in self._tables] + pieces
        self.optimizers = make_optimizers(settings, self._dense, of_tables)
        self._base_rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        self._backward = Backward(
            model, settings, self._dense, self._tables, self.sharded, exchange
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
        parts, upcoming_parts = self._cutter.parts(batches, upcoming)
        self.sharded.fetch(list(chain(*parts)), list(chain(*upcoming_parts)))
        partial_sums = PartialSums(self.exchange, self.slices)
        for tensors in self._backward.run(parts):
            partial_sums.add(tensors)
        sums = partial_sums.start()
        # Rows are merged while the sums are on their way.
        rows = self._backward.rows()
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

    def _set_gradients(self, dense: list[Tensor], rows: Sequence[TableRows]) -> None:
        """Sets the parameters' gradients, of the global batch's mean loss.

        Args:
            dense: for each dense parameter.
            rows: for each embedding table, then for each piece of a sharded one.
        """
        for parameter, gradient in zip(self._dense, dense, strict=True):
            # Sent in one dtype, the widest of them.
            parameter.grad = gradient.to(parameter.dtype)
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
