"""The state of the optimizers (Adam's moments, Adagrad's sums of squares), by parameter name.

It is saved with a model, so that a warm start goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from jobs.train.step.step import Step


def parameter_names(step: Step) -> dict[str, str]:
    """`<optimizer>/<parameter>`, by their numbers -> the parameter's name in the model."""
    names = names_of(step)
    return {
        f"{number}/{place}": names[parameter]
        for number, optimizer in enumerate(step.optimizers)
        for place, parameter in enumerate(
            parameter for group in optimizer.param_groups for parameter in group["params"]
        )
    }


def moments_of(numbered: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The optimizers' tensors by `<parameter's name>/<name in the optimizer's state>`.

    Args:
        numbered: the same, by `<optimizer>/<parameter>/<name in the optimizer's state>`.
        names: see `parameter_names`.
    """
    parts = ((*name.rpartition("/"), tensor) for name, tensor in numbered.items())
    return {f"{names[parameter]}/{key}": tensor for parameter, _, key, tensor in parts}


def names_of(step: Step) -> dict[Tensor, str]:
    """The names of its parameters; of the pieces of sharded tables those of the tables."""
    names: dict[Tensor, str] = {own: name for name, own in step.model.named_parameters()}
    return names | {table.piece: table.name for table in step.sharded.tables}
