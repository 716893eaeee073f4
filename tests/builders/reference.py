"""Training two ways: by our step as a rank, and by a plain PyTorch loop in one process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jobs.batch.batch import Batch
from jobs.models.build import Model, build_model, embedding_tables, row_losses
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Exchange
from jobs.train.step.step import Step
from tests.builders.batches import SPEC, batch_of, pieces_of

# A full batch, ragged ones, one with fewer rows than ranks; the second column is never touched in
# the fourth.
BATCHES = [batch_of(rows, seed=rows) for rows in (64, 37, 64, 20, 2, 1, 50)]
BATCHES[3].sparse[:, 1] = 0


def settings_of(**changes: Any) -> TrainSettings:
    return TrainSettings(**{"learning_rate": 0.05, "weight_decay": 0.01, **changes})


def fresh_model(name: str = "wide_deep", seed: int = 3) -> Model:
    torch.manual_seed(seed)
    model = build_model(name, SPEC)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def weights_of(model: Model) -> dict[str, Tensor]:
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters()}


def trained(
    exchange: Exchange, model: Model, settings: TrainSettings, batches: list[Batch]
) -> dict[str, Tensor]:
    """Weights after all steps, with the rates of a falling schedule."""
    step = Step(model, settings, exchange)
    for number, group in enumerate(in_groups(batches, settings.accumulate_steps)):
        pieces = [pieces_of(batch, exchange.size)[exchange.rank] for batch in group]
        step.run(*pieces, rate=1 / (1 + number))
    return weights_of(model)


class OneSumARow(torch.optim.Optimizer):
    """Row-wise Adagrad, of dense gradients."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for table in group["params"]:
                total = self.state[table].setdefault("sum", torch.zeros(len(table)).to(table))
                total += table.grad.square().sum(1) / table.shape[1]
                table -= group["lr"] * table.grad / (total.sqrt() + 1e-10)[:, None]


def plain_loop(
    model: Model, settings: TrainSettings, groups: list[list[Batch]]
) -> dict[str, Tensor]:
    """The reference: one process, whole batches, torch's optimizers, gradients kept dense.

    Adam alone needs sparse gradients of tables: its lazy kind is defined by touched rows.
    """
    tables = list(embedding_tables(model))
    for _, table in tables:
        table.sparse = settings.optimizer == "adam"
    ids = {id(table.weight) for _, table in tables}
    dense = [p for p in model.parameters() if id(p) not in ids]
    # Tables may be tied.
    of_tables = list(dict.fromkeys(table.weight for _, table in tables))
    optimizers: list[torch.optim.Optimizer] = {
        "sgd": lambda: [
            torch.optim.SGD(dense, 0.05, weight_decay=0.01),
            torch.optim.SGD(of_tables, 0.05),
        ],
        "adagrad": lambda: [
            torch.optim.Adagrad(dense, 0.05, weight_decay=0.01),
            torch.optim.Adagrad(of_tables, 0.05),
        ],
        "row_adagrad": lambda: [
            torch.optim.Adagrad(dense, 0.05, weight_decay=0.01),
            OneSumARow(of_tables, {"lr": 0.05}),
        ],
        "adam": lambda: [
            torch.optim.AdamW(dense, 0.05, weight_decay=0.01),
            torch.optim.SparseAdam(of_tables, 0.05),
        ],
    }[settings.optimizer]()
    for number, group in enumerate(groups):
        losses = torch.cat([row_losses(model(batch), batch, "binary") for batch in group])
        weights = torch.cat([batch.weight for batch in group]).double()
        loss = (losses * weights).sum() / weights.sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        if settings.clip_norm is not None:
            _clip(list(model.parameters()), settings.clip_norm)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.05 / (1 + number)
            optimizer.step()
    return weights_of(model)


def _clip(parameters: list[nn.Parameter], limit: float) -> None:
    """Written out: torch's own clip_grad_norm_ takes no sparse gradients."""
    gradients = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in parameters]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > limit, "or the test tests nothing"
    for parameter in parameters:
        parameter.grad = parameter.grad * (limit / (norm + 1e-6))


def in_groups(batches: list[Batch], count: int) -> list[list[Batch]]:
    return [batches[first : first + count] for first in range(0, len(batches), count)]
