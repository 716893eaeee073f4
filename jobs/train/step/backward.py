"""The gradients of one rank's rows, undivided, and the exchange of embedding tables' rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from jobs.base.errors import ConfigError
from jobs.batch.batch import Batch
from jobs.models.build import Model, row_losses
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Exchange
from jobs.train.exchange.pending import Pending
from jobs.train.exchange.rows import TableRows
from jobs.train.order.plan import key_of
from jobs.train.step.buffers import Buffers
from jobs.train.tables.tables import Tables

# By `train.wire_dtype`; None keeps the values as they are.
SENT_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Backward:
    """Computes gradients of a rank's rows, part by part.

    Args:
        model: whose parameters it leaves without gradients.
        dense: its dense parameters.
        tables: its embedding tables, by name, which all ranks have.
        sharded: this rank's pieces of the others.
        exchange: to which rows of tables go as soon as they have their gradients.
    """

    def __init__(
        self,
        model: Model,
        settings: TrainSettings,
        dense: Sequence[nn.Parameter],
        tables: Sequence[tuple[str, nn.Parameter]],
        sharded: Tables,
        exchange: Exchange,
    ) -> None:
        self._model, self._settings, self._exchange = model, settings, exchange
        self._dense, self._tables, self._sharded = dense, tables, sharded
        self._sent_dtype = SENT_DTYPES[settings.wire_dtype]
        self._buffers = Buffers(model)
        # By the table's number, the gradients of the parts that are done.
        self._done: list[list[TableRows]] = []
        self._started: dict[int, Pending[TableRows]] = {}
        self._is_last = False
        for number, (_, table) in enumerate(tables):
            table.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                partial(self._has_gradient, number)
            )

    def run(self, parts: Sequence[Sequence[Batch]]) -> Iterator[list[Tensor]]:
        """Computes the gradients of a step's rows, and starts the exchange of the tables'.

        Args:
            parts: of this rank's rows, each with its rows of each of the step's batches.

        Yields:
            For each part, the gradients of the dense parameters; [2], the sums of the weighted
            losses and of the weights; and what `Tables.start_gradients` returned, zeros but for the
            last part.
        """
        self._done, self._started = [[] for _ in self._tables], {}
        for number, batches in enumerate(parts, 1):
            is_last = number == len(parts)
            loss_and_weight = self._run_part(batches, is_last)
            dense = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._dense]
            for parameter in self._dense:
                parameter.grad = None
            sizes = self._sharded.start_gradients() if is_last else self._sharded.no_sizes
            yield [*dense, loss_and_weight, sizes.to(loss_and_weight)]

    def rows(self) -> list[TableRows]:
        """Waits for the gradients' rows of each table, added up over all ranks."""
        return [self._started[number].result() for number in range(len(self._tables))]

    def _run_part(self, batches: Sequence[Batch], is_last: bool) -> Tensor:
        found = []
        for number, batch in enumerate(batches, 1):
            self._is_last = is_last and number == len(batches)
            found.append(self._run_batch(batch))
        # The hooks stay on the model, which another `Step` may train.
        self._is_last = False
        for number in range(len(self._tables)):
            if not is_last:
                self._done[number].append(self._taken(number))
            elif number not in self._started:
                self._start_rows(number)
        loss_and_weight = torch.stack(found).sum(0)
        if is_last and loss_and_weight.is_cuda:
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
        parts = [*self._done[number], self._taken(number)]
        name, _ = self._tables[number]
        self._started[number] = self._exchange.start_rows(name, parts, self._sent_dtype)

    def _taken(self, number: int) -> TableRows:
        """The gradient's rows of table `number`, which has none afterwards."""
        name, table = self._tables[number]
        rows = gradient_rows(name, table)
        table.grad = None
        return rows

    def _run_batch(self, batch: Batch) -> Tensor:
        """Adds the gradients of a batch's summed loss to those that parameters have.

        Returns:
            [2]: the sum of the weighted losses, and the sum of the weights.
        """
        reference, settings = self._sharded.reference, self._settings
        if not batch.rows:
            # A model of the user's own may not accept a piece without rows.
            return reference.new_zeros(2)
        if settings.gradient_slices > 1:
            # What is drawn, as dropout's masks, follows from the slice, not from the rank.
            torch.manual_seed(key_of(settings.seed, int(batch.position[0]), int(batch.row_id[0])))
        batch = batch.to(reference.device)
        weight = batch.weight.to(reference.dtype)
        if settings.positive_weight != 1.0:
            weight = weight * torch.where(batch.label > 0.5, settings.positive_weight, 1.0)
        low = settings.precision == "bfloat16"
        with (
            self._buffers.unchanged(),
            torch.autocast(reference.device.type, torch.bfloat16, enabled=low),
        ):
            logits = self._model(batch)
        logits = logits.to(reference.dtype)
        losses = row_losses(logits, batch, self._model.task, settings.label_smoothing)
        loss = (losses * weight).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.stack([loss.detach(), weight.sum()])


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
