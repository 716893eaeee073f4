"""Optimizers: torch's for dense parameters, row-wise ones for embedding tables.

A row-wise optimizer updates only the rows that have a gradient, so the cost of a step depends on
the batch and not on the table's size. torch's own sparse optimizers do so too, but coalesce the
gradient again and mask the whole state: SparseAdam took about twice the time.

Shapes: r rows of a table with a gradient, E values in a row.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.settings.train import TrainSettings

# Values that are updated together. They stay in the processor's cache until they are written back.
_PART = 131_072


class RowWise(torch.optim.Optimizer, ABC):
    """An optimizer of embedding tables whose gradients are sparse and coalesced.

    Its state of a table has tensors only: a scalar `step`, or moments [rows, ...], in the
    dtype of its gradients. Shorter rows are updated in that, and rounded when they are written.
    """

    def __init__(self, tables: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(tables, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    gradient = table.grad
                    ids, values = gradient.indices()[0], gradient.values()
                    self._update_in_parts(table, ids, values, group["lr"])

    def _update_in_parts(self, table: Tensor, ids: Tensor, values: Tensor, rate: float) -> None:
        state = self.state[table]
        self._begin(table, state)
        # A GPU is fastest with all rows at once.
        rows = max(1, len(ids) if table.is_cuda else _PART // table.shape[1])
        for some, of_some in zip(torch.split(ids, rows), torch.split(values, rows), strict=True):
            self._update(table, some, of_some, state, rate)

    def _begin(self, table: Tensor, state: dict[str, Tensor]) -> None:
        """Called for each table before its rows are updated in a step."""

    @abstractmethod
    def _update(
        self, table: Tensor, ids: Tensor, values: Tensor, state: dict[str, Tensor], rate: float
    ) -> None:
        """Updates some rows of a table and of its state.

        Args:
            ids: int64 [r], numbers of the rows, each once.
            values: [r, E], their gradients.
            rate: the learning rate.
        """


class RowSGD(RowWise):
    """SGD: w -= rate * g, as `torch.optim.SGD`."""

    def _update(
        self, table: Tensor, ids: Tensor, values: Tensor, state: dict[str, Tensor], rate: float
    ) -> None:
        _set_rows(table, ids, _rows(table, ids).to(values.dtype).add_(values, alpha=-rate))


class RowAdagrad(RowWise):
    """Adagrad (Duchi et al., 2011), as `torch.optim.Adagrad`.

    s += g^2; w -= rate * g / (sqrt(s) + eps).
    """

    EPS = 1e-10

    def _begin(self, table: Tensor, state: dict[str, Tensor]) -> None:
        if not state:
            state["sum"] = torch.zeros_like(table, dtype=table.grad_dtype)

    def _update(
        self, table: Tensor, ids: Tensor, values: Tensor, state: dict[str, Tensor], rate: float
    ) -> None:
        total = _rows(state["sum"], ids).addcmul_(values, values)
        _set_rows(state["sum"], ids, total)
        _add_quotient(table, ids, values, total.sqrt_().add_(self.EPS), -rate)


class RowWiseAdagrad(RowWise):
    """Adagrad with one moment a row, as `torchrec.optim.RowWiseAdagrad`.

    s += mean of the row's g^2; w -= rate * g / (sqrt(s) + eps).
    """

    EPS = RowAdagrad.EPS

    def _begin(self, table: Tensor, state: dict[str, Tensor]) -> None:
        if not state:
            state["sum"] = table.new_zeros(len(table), 1, dtype=table.grad_dtype)

    def _update(
        self, table: Tensor, ids: Tensor, values: Tensor, state: dict[str, Tensor], rate: float
    ) -> None:
        total = _rows(state["sum"], ids).add_(values.square().mean(1, keepdim=True))
        _set_rows(state["sum"], ids, total)
        _add_quotient(table, ids, values, total.sqrt_().add_(self.EPS), -rate)


class LazyAdam(RowWise):
    """Adam that leaves the moments of rows without a gradient as they are, like SparseAdam.

    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    w -= rate * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps),
    where t is the number of the table's steps, not of those that updated the row.
    """

    BETAS = (0.9, 0.999)
    EPS = 1e-8

    def _begin(self, table: Tensor, state: dict[str, Tensor]) -> None:
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)
            state["exp_avg"] = torch.zeros_like(table, dtype=table.grad_dtype)
            state["exp_avg_sq"] = torch.zeros_like(table, dtype=table.grad_dtype)
        state["step"] += 1

    def _update(
        self, table: Tensor, ids: Tensor, values: Tensor, state: dict[str, Tensor], rate: float
    ) -> None:
        steps, (b1, b2) = int(state["step"]), self.BETAS
        mean = _rows(state["exp_avg"], ids).lerp_(values, 1 - b1)
        _set_rows(state["exp_avg"], ids, mean)
        square = _rows(state["exp_avg_sq"], ids)
        square.mul_(b2).addcmul_(values, values, value=1 - b2)
        _set_rows(state["exp_avg_sq"], ids, square)
        rate *= math.sqrt(1 - b2**steps) / (1 - b1**steps)
        _add_quotient(table, ids, mean, square.sqrt_().add_(self.EPS), -rate)


def _rows(table: Tensor, ids: Tensor) -> Tensor:
    """Copies of the rows `ids` [r] of a table, [r, E].

    On the CPU `embedding_bag` prefetches, and takes half of `index_select`'s time.
    """
    return F.embedding_bag(ids.unsqueeze(1), table, mode="sum")


def _set_rows(table: Tensor, ids: Tensor, rows: Tensor) -> None:
    """Overwrites the rows `ids` [r], each once, of a table by `rows` [r, E], in its dtype.

    On the CPU torch's `index_copy_` copies element by element; NumPy's `put` copies whole rows, in
    half of the time.
    """
    rows = rows.to(table.dtype)
    if table.is_cuda or not table.is_contiguous():
        table.index_copy_(0, ids, rows)
    else:
        np.put(_whole_rows(table), ids.numpy(), _whole_rows(rows))


def _whole_rows(rows: Tensor) -> NDArray[np.void]:
    """A view of rows [r, E] as [r] elements, each the bytes of a row."""
    whole = np.dtype((np.void, rows.shape[1] * rows.itemsize))
    seen: NDArray[np.void] = rows.detach().view(torch.uint8).numpy().view(whole)
    return seen[:, 0]


def _add_quotient(table: Tensor, ids: Tensor, above: Tensor, below: Tensor, factor: float) -> None:
    """Adds `factor` * `above` / `below`, each [r, E], to the rows `ids` [r] of a table."""
    rows = _rows(table, ids).to(above.dtype).addcdiv_(above, below, value=factor)
    _set_rows(table, ids, rows)


_KINDS: dict[str, tuple[Any, type[RowWise]]] = {
    "sgd": (torch.optim.SGD, RowSGD),
    "adagrad": (torch.optim.Adagrad, RowAdagrad),
    "row_adagrad": (torch.optim.Adagrad, RowWiseAdagrad),
    "adam": (torch.optim.AdamW, LazyAdam),
}


def update(optimizer: torch.optim.Optimizer) -> None:
    """As `optimizer.step()`, which would import torch's compiler."""
    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)


def _keep_compiler_out() -> None:
    """Torch would import its compiler, for 2 s of every rank, to keep it off these methods."""
    for method in vars(torch.optim.Optimizer).values():
        if inspect.isfunction(method) and hasattr(method, "__wrapped__"):
            vars(method.__wrapped__).setdefault("__dynamo_disable", method.__wrapped__)


def make_optimizers(
    settings: TrainSettings, dense: list[nn.Parameter], tables: list[nn.Parameter]
) -> list[torch.optim.Optimizer]:
    """One optimizer for the dense parameters, and one for the tables, where there are any."""
    _keep_compiler_out()
    of_dense, of_tables = _KINDS[settings.optimizer]
    rate = base_rate(settings)
    made: list[torch.optim.Optimizer] = []
    if dense:
        made.append(of_dense(dense, lr=rate, weight_decay=settings.weight_decay))
    if tables:
        made.append(of_tables(tables, lr=rate))
    return made


def base_rate(settings: TrainSettings) -> float:
    """The learning rate; where `base_batch_rows` is set, in proportion to the rows of a step."""
    if settings.base_batch_rows is None:
        return settings.learning_rate
    return settings.learning_rate * settings.step_rows / settings.base_batch_rows


def schedule_factor(settings: TrainSettings, row: float, total_rows: int) -> float:
    """The factor on the learning rate: a linear warm-up, then `train.schedule`.

    Args:
        row: rows trained so far, in all epochs and by all ranks. Callers give the middle of a step,
            so that the factor is 0 neither for the first step nor for the last.
        total_rows: rows of all epochs.
    """
    if row < settings.warmup_rows:
        return row / settings.warmup_rows
    if settings.schedule == "constant":
        return 1.0
    share = (row - settings.warmup_rows) / max(1, total_rows - settings.warmup_rows)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
