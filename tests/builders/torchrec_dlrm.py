"""TorchRec's sharded DLRM at one rank, for a test and a benchmark, in an environment of its own.

    PYTHON torchrec_dlrm.py PROBLEM.npz FOUND.npz

A problem has S steps of B rows: `inputs` [S, B, I], `ids` int64 [S, B, C] (0 for none) and `labels`
[S, B]; weights by name: `table.C` [rows, E], `bottom.N` and `top.N`, in order of the layers, each
weight before its bias; `optimizer` (sgd, adagrad or row_adagrad), `rate` and `turns`, how often all
steps are made. What is found has the weights after them, and `seconds` of each step.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torchrec
from torch import Tensor, nn
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
from torchrec.distributed.types import ShardingPlan
from torchrec.models.dlrm import DLRM
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

CPU = torch.device("cpu")
EPS = 1e-10
# Of the tables, then of the dense layers.
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "sgd": (torch.optim.SGD, {}, torch.optim.SGD),
    "adagrad": (torch.optim.Adagrad, {"eps": EPS}, torch.optim.Adagrad),
    "row_adagrad": (RowWiseAdagrad, {"eps": EPS}, torch.optim.Adagrad),
}


def named(problem: Any, kind: str) -> list[Tensor]:
    """The weights of a kind, in order."""
    names = [name for name in problem.files if name.startswith(f"{kind}.")]
    return [torch.from_numpy(problem[f"{kind}.{n}"]) for n in range(len(names))]


def built(problem: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model, sharded, with the problem's weights; and the optimizer of its dense layers."""
    tables, bottom, top = (named(problem, kind) for kind in ("table", "bottom", "top"))
    collection = torchrec.EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            torchrec.EmbeddingBagConfig(
                name=f"table{number}",
                embedding_dim=table.shape[1],
                num_embeddings=table.shape[0],
                feature_names=[f"field{number}"],
            )
            for number, table in enumerate(tables)
        ],
    )
    model = DLRM(
        collection,
        dense_in_features=bottom[0].shape[1],
        dense_arch_layer_sizes=[len(bias) for bias in bottom[1::2]],
        over_arch_layer_sizes=[len(bias) for bias in top[1::2]],
        dense_device=CPU,
    )
    of_tables, more, of_dense = OPTIMIZERS[str(problem["optimizer"])]
    rate = float(problem["rate"])
    apply_optimizer_in_backward(of_tables, collection.parameters(), {"lr": rate, **more})
    plan = construct_module_sharding_plan(
        collection,
        {f"table{number}": row_wise() for number in range(len(tables))},
        local_size=1,
        world_size=1,
        device_type="cpu",
    )
    whole = ShardingPlan({"sparse_arch.embedding_bag_collection": plan})
    sharded = DistributedModelParallel(model, device=CPU, plan=whole)
    dense = [*model.dense_arch.parameters(), *model.over_arch.parameters()]
    with torch.no_grad():
        for own, value in zip([*pieces(sharded), *dense], [*tables, *bottom, *top], strict=True):
            own.copy_(value)
    return sharded, of_dense(dense, lr=rate)


def pieces(model: nn.Module) -> list[Tensor]:
    """The tables' weights, which one rank has all of."""
    found = {name: of for name, of in model.state_dict().items() if "embedding_bags" in name}
    ordered = sorted(found, key=lambda name: int(name.split("table")[1].split(".")[0]))
    return [found[name].local_shards()[0].tensor for name in ordered]


def bags(ids: Tensor) -> torchrec.KeyedJaggedTensor:
    """Ids [B, C] as each field's, none where they are 0."""
    by_field = ids.t()
    return torchrec.KeyedJaggedTensor(
        keys=[f"field{number}" for number in range(len(by_field))],
        values=by_field[by_field != 0],
        lengths=(by_field != 0).flatten().int(),
    )


def trained(problem: Any) -> dict[str, Any]:
    model, optimizer = built(problem)
    loss_of, seconds = nn.BCEWithLogitsLoss(), []
    steps = [
        (torch.from_numpy(inputs), bags(torch.from_numpy(ids)), torch.from_numpy(labels))
        for inputs, ids, labels in zip(
            problem["inputs"], problem["ids"], problem["labels"], strict=True
        )
    ]
    for _ in range(int(problem["turns"])):
        for inputs, sparse, labels in steps:
            started = time.perf_counter()
            optimizer.zero_grad()
            loss_of(model(inputs, sparse).squeeze(1), labels).backward()
            optimizer.step()
            seconds.append(time.perf_counter() - started)
    found: dict[str, Any] = {"seconds": np.array(seconds)}
    inner = model.module
    for kind, weights in (
        ("table", pieces(model)),
        ("bottom", inner.dense_arch.parameters()),
        ("top", inner.over_arch.parameters()),
    ):
        found |= {f"{kind}.{n}": of.detach().numpy() for n, of in enumerate(weights)}
    return found


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with np.load(sys.argv[1]) as problem:
        found = trained(problem)
    np.savez(sys.argv[2], **found)
    dist.destroy_process_group()


main()
