"""A step's cost by how gradients are sent between ranks, for `bench_train`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from jobs.batch.batch import Batch
from jobs.models.build import Model, build_model, embedding_tables, row_losses
from jobs.models.spec import ModelSpec
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.step.step import Step

TABLES, TABLE_ROWS, DIM, NUMBERS = 26, 100_000, 16, 13
DENSE = "dense allreduce"


@dataclass
class Cost:
    """Of one way, on this rank: milliseconds of each step, and bytes that the last one sent."""

    ms: list[float]
    bytes: int


def zipf_batches(
    count: int,
    rows: int,
    exponent: float,
    rank: int,
    tables: int = TABLES,
    factor: int = 1,
) -> tuple[ModelSpec, list[Batch]]:
    """Batches whose ids follow Zipf's law over TABLE_ROWS values.

    Args:
        factor: the tables have as many times the rows, over which these ids are spread.
    """
    rng = np.random.default_rng([7, rank])
    weights = 1 / np.arange(1, TABLE_ROWS) ** exponent
    cumulated = (weights / weights.sum()).cumsum()
    # Which id is frequent differs by table: frequent ones are not neighbours.
    places = [np.random.default_rng(c).permutation(TABLE_ROWS - 1) + 1 for c in range(tables)]
    spec = ModelSpec(
        dataset="zipf",
        declaration="",
        state="",
        task="binary",
        means=(0.0,) * NUMBERS,
        stds=(1.0,) * NUMBERS,
        table_rows=(TABLE_ROWS * factor,) * tables,
        embedding_dims=(DIM,) * tables,
        tensor_shapes={},
        hidden=(128, 64),
        dropout=0.0,
    )
    batches = []
    for _ in range(count):
        drawn = np.searchsorted(cumulated, rng.random((rows, tables))).clip(max=TABLE_ROWS - 2)
        sparse = np.stack([places[c][drawn[:, c]] for c in range(tables)], axis=1)
        batches.append(
            Batch(
                dense=torch.from_numpy(rng.standard_normal((rows, NUMBERS), np.float32)),
                sparse=torch.from_numpy(sparse * factor),
                label=torch.from_numpy((rng.random(rows) < 0.25).astype(np.float32)),
                weight=torch.ones(rows),
                row_id=torch.arange(rows),
                is_row=torch.ones(rows, dtype=torch.bool),
                position=torch.arange(rows),
                tensors={},
            )
        )
    return spec, batches


def exchanges(
    settings: Any, rows: int, exponent: float, repeats: int, exchange: Exchange, memory: RankMemory
) -> dict[str, Cost]:
    """What a step costs by how gradients are sent; all ways take turns, on all ranks at once."""
    torch.set_num_threads(settings.threads_per_rank)
    spec, batches = zipf_batches(20, rows, exponent, exchange.rank)
    short = settings.model_copy(update={"wire_dtype": "float16"})
    ways: dict[str, Callable[[Batch], int]] = {
        "no exchange": _ours(spec, settings, Alone()),
        "sparse": _ours(spec, settings, exchange),
        "sparse, float16 values": _ours(spec, short, exchange),
        "Horovod's sparse path": _horovods(spec, settings, dense=False),
        DENSE: _horovods(spec, settings, dense=True),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    sent = dict.fromkeys(ways, 0)
    names = list(ways)
    for turn in range(repeats + 1):
        for number, batch in enumerate(batches):
            # Each batch by every way, one after the other, so that a slow second of the machine
            # slows all; each way comes first in turn. A dense allreduce takes too long for that.
            first = number % len(names)
            for name in names[first:] + names[:first]:
                if name == DENSE and number % 5:
                    continue
                exchange.start_sums([torch.zeros(1)]).result()
                started = time.perf_counter()
                sent[name] = ways[name](batch)
                if turn:
                    times[name].append(1000 * (time.perf_counter() - started))
    return {name: Cost(times[name], sent[name]) for name in ways}


def _ours(spec: ModelSpec, settings: Any, exchange: Exchange) -> Callable[[Batch], int]:
    torch.manual_seed(1)
    step = Step(build_model("dlrm", spec), settings, exchange)

    def run(batch: Batch) -> int:
        before = exchange.bytes_sent
        step.run(batch)
        return exchange.bytes_sent - before

    return run


def _horovods(spec: ModelSpec, settings: Any, dense: bool) -> Callable[[Batch], int]:
    """The same model with Horovod's own optimizer, as its users write it."""
    import horovod.torch as hvd

    torch.manual_seed(1)
    model: Model = build_model("dlrm", spec)
    for _, table in embedding_tables(model):
        table.sparse = not dense
    plain = torch.optim.Adagrad(model.parameters(), lr=settings.learning_rate)
    optimizer = hvd.DistributedOptimizer(plain, named_parameters=model.named_parameters())

    def run(batch: Batch) -> int:
        optimizer.zero_grad()
        row_losses(model(batch), batch, "binary").mean().backward()  # type: ignore[no-untyped-call]
        sent = sum(_gradient_bytes(p.grad) for p in model.parameters() if p.grad is not None)
        optimizer.step()
        return sent

    return run


def _gradient_bytes(gradient: torch.Tensor) -> int:
    if gradient.is_sparse:
        return gradient._indices().nbytes + gradient._values().nbytes
    return gradient.nbytes
