"""The state of the optimizers (Adam's moments, Adagrad's sums of squares), by parameter name.

It is saved with a model, so that a warm start goes on with it. An embedding table may have more
rows by then. The moments of its old rows are kept; those of its new rows are zero, although their
weights are copies of the OOV bucket's: a new row has had no gradient yet, and the bucket's sum of
squares comes from all unseen values, so that Adagrad would hardly move the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from jobs.train.step.step import Step


@dataclass(frozen=True)
class Origin:
    """For each of the r rows of a new model's embedding table, the row of the old one it copies.

    Attributes:
        rows: int64 [r], the number of the old model's row.
        new: bool [r], whether the old model lacks the row's id, and `rows` has its OOV bucket's.
    """

    rows: Tensor
    new: Tensor


def parameter_names(step: Step) -> dict[str, str]:
    """`<optimizer>/<parameter>`, by their numbers -> the parameter's name in the model."""
    names = _names(step)
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


def set_moments(step: Step, moments: Mapping[str, Tensor], origins: Mapping[str, Origin]) -> None:
    """Sets the optimizers' tensors to those of another model's.

    Args:
        moments: what `moments_of` returned for the other model.
        origins: embedding table's parameter name -> the other model's rows that it copies. Other
            parameters have the same shapes in both models.
    """
    names = _names(step)
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in moments.items():
        parameter, _, key = name.rpartition("/")
        found.setdefault(parameter, {})[key] = value
    for optimizer in step.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names[parameter]
                for key, value in found.get(name, {}).items():
                    own = _grown(value, origins[name]) if name in origins else value
                    # Scalars are counts of steps, which torch keeps on the CPU.
                    place = parameter.device if own.dim() else own.device
                    optimizer.state[parameter][key] = own.to(place, copy=True)


def _names(step: Step) -> dict[Tensor, str]:
    names: dict[Tensor, str] = {own: name for name, own in step.model.named_parameters()}
    return names | {table.piece: table.name for table in step.sharded.tables}


def _grown(moments: Tensor, origin: Origin) -> Tensor:
    """The moments [old rows, E] of a table as [r, E], zero for new rows; scalars as they are."""
    if not moments.dim():
        return moments
    return moments.index_select(0, origin.rows).masked_fill_(origin.new.unsqueeze(1), 0.0)
