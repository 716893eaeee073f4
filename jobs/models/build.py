"""Models, by name or by reference.

A model of one's own is any `torch.nn.Module`, named as `module:Class` or `./file.py:Class`:

    class MyModel(nn.Module):
        def __init__(self, spec: ModelSpec) -> None: ...
        def forward(self, batch: Batch) -> Tensor: ...   # logits [b]; multiclass: [b, classes]

It sees NaN where a number is missing (`InputLayer` imputes and standardises) and ids from 0
(padding) to `spec.table_rows[c] - 1`. Its embedding tables get sparse gradients. Batch statistics
(BatchNorm) are refused: a rank would see those of its piece, not of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from jobs.base.errors import ConfigError
from jobs.batch.batch import Batch
from jobs.models.cnn import CNN
from jobs.models.dlrm import DLRM, DCNv2
from jobs.models.layers import EmbeddingTable, without_tables
from jobs.models.mlp import MLP, WideDeep
from jobs.models.spec import ModelSpec
from jobs.settings.objects import load_object, source_of
from schemas.field import Task

MODELS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "wide_deep": WideDeep,
    "dlrm": DLRM,
    "dcn_v2": DCNv2,
    "cnn": CNN,
}


class Model(nn.Module):
    """A network, the task that its logits are for, and the user's source that it was made by."""

    def __init__(self, net: nn.Module, task: Task, source: str = "") -> None:
        super().__init__()
        self.net = net
        self.task: Task = task
        self.source = source

    def forward(self, batch: Batch) -> Tensor:
        """Logits [b], or [b, classes]."""
        logits: Tensor = self.net(batch)
        return logits


def build_model(name: str, spec: ModelSpec, base: str = ".", *, with_tables: bool = True) -> Model:
    """A new model with fresh weights, drawn from torch's global generator.

    Those of the embedding tables of MODELS follow from its seed, the table's name and the row.

    Args:
        name: one of MODELS, or a reference to a class.
        spec: its sizes.
        base: folder that file references start from.
        with_tables: whether embedding tables have values; else they are on torch's device meta.

    Raises:
        ConfigError: no such model, no `nn.Module`, or one whose forward pass changes it: batch
            statistics, tables with `max_norm`; or tables with `scale_grad_by_freq`.
    """
    if name not in MODELS and ":" not in name:
        raise ConfigError(
            f"train.model is {name!r}",
            f"one of {', '.join(MODELS)}, or module:Class or ./file.py:Class",
        )
    # Read first: a file that is changed after it was imported must not pass for the imported one.
    source = "" if name in MODELS else source_of(name, base)
    maker = MODELS[name] if name in MODELS else load_object(name, base)
    # A model of the user's own may read its tables' values, or tie them.
    with without_tables() if name in MODELS or not with_tables else nullcontext():
        net = maker(spec)
    if not isinstance(net, nn.Module):
        raise ConfigError(f"train.model {name!r} makes a {type(net).__name__}", "an nn.Module")
    _refuse_batch_statistics(name, net)
    apart = dict(embedding_tables(net))
    for place, table in _tables(net):
        if table.max_norm is not None:
            raise ConfigError(
                f"train.model {name!r} has a table with max_norm at {place}",
                "tables that a forward pass only reads: a rank would change rows of its own",
                "leave max_norm out; train.clip_norm limits gradients",
            )
        if table.scale_grad_by_freq:
            raise ConfigError(
                f"train.model {name!r} has a table with scale_grad_by_freq at {place}",
                "gradients of a row that follow from its rows alone, and not from a rank's batch",
                "leave scale_grad_by_freq out",
            )
        table.sparse = place in apart
    model = Model(net, spec.task, source)
    if with_tables:
        _fill(model)
    return model


def _fill(model: Model) -> None:
    for place, table in _tables(model):
        # Under torch.device("meta") it stays there.
        if isinstance(table, EmbeddingTable) and table.weight.is_meta:
            table.fill(torch.initial_seed(), place)


def embedding_tables(model: nn.Module) -> Iterator[tuple[str, nn.Embedding | nn.EmbeddingBag]]:
    """The model's embedding tables with the names of their weights.

    Tables that another layer uses too are left out: their gradients are dense, as a parameter's.
    """
    of_others = {
        id(parameter)
        for module in model.modules()
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for parameter in module._parameters.values()
    }
    for name, table in _tables(model):
        if id(table.weight) not in of_others:
            yield name, table


def _tables(model: nn.Module) -> Iterator[tuple[str, nn.Embedding | nn.EmbeddingBag]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            yield f"{name}.weight".lstrip("."), module


def _refuse_batch_statistics(name: str, model: nn.Module) -> None:
    for place, module in model.named_modules():
        tracks = isinstance(module, _InstanceNorm) and module.track_running_stats
        if isinstance(module, _BatchNorm) or tracks:
            raise ConfigError(
                f"train.model {name!r} has a {type(module).__name__} at {place or 'its root'}",
                "no batch statistics: a rank sees its piece, not the global batch",
                "use torch.nn.GroupNorm or torch.nn.LayerNorm",
            )


_LINKS: dict[Task, Callable[[Tensor], Tensor]] = {
    "binary": torch.sigmoid,
    "regression": lambda logits: logits,
    "multiclass": lambda logits: torch.softmax(logits, dim=1),
}


def row_losses(logits: Tensor, batch: Batch, task: Task, smoothing: float = 0.0) -> Tensor:
    """Loss of each row [b]: log loss of a label, squared error of a number.

    Args:
        smoothing: share of each label that goes to all classes alike.
    """
    label = batch.label.to(logits.dtype)
    if task == "regression":
        return (logits - label) ** 2
    if task == "multiclass":
        classes = batch.label.long()
        return F.cross_entropy(logits, classes, reduction="none", label_smoothing=smoothing)
    if smoothing:
        label = label * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, label, reduction="none")


def scores_of(logits: Tensor, task: Task) -> Tensor:
    """Scores float32 [b] of logits: probabilities of a binary label, else numbers.

    Of a multiclass label, the probabilities of its classes, [b, classes].
    """
    return _LINKS[task](logits).float()


def predict(model: Model, batch: Batch) -> Tensor:
    """Scores float32, as `scores_of`, without dropout."""
    was_training = model.training
    # Either walks through all modules, which takes as long as a forward of few rows.
    if was_training:
        model.eval()
    with torch.inference_mode():
        scores = scores_of(model(batch), model.task)
    if was_training:
        model.train()
    return scores


__all__ = [
    "MODELS",
    "Model",
    "ModelSpec",
    "Task",
    "build_model",
    "embedding_tables",
    "predict",
    "row_losses",
    "scores_of",
]
