"""What optimizers remember of each parameter, by its name: kept with a model to go on from.

A row-wise optimizer's moments have a row for each of a table's, so they grow as the table does: an
old row keeps its own. A new row's are zero, although its weights are those of its OOV bucket: it
has had no gradient yet, and with the sum of squares that all unseen values left in their bucket,
Adagrad would hardly move it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from jobs.train.step.step import Step


@dataclass(frozen=True)
class Origin:
    """Where the rows of a table come from.

    Attributes:
        rows: int64 [r], the source's row of each.
        new: bool [r], rows that the source lacks; `rows` names the one that is copied.
    """

    rows: Tensor
    new: Tensor


def moments_of(step: Step) -> dict[str, Tensor]:
    """`<parameter>/<name>` -> moments, counts of steps and the like; on the CPU."""
    names = _names(step)
    return {
        f"{names[parameter]}/{key}": value.detach().cpu().contiguous()
        for optimizer in step.optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def set_moments(step: Step, moments: Mapping[str, Tensor], origins: Mapping[str, Origin]) -> None:
    """Gives the optimizers what `moments_of` found in those of another model.

    Args:
        origins: table's name -> where its rows come from; other parameters are as large as there.
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
                    # Counts of steps stay on the CPU, as torch has them.
                    place = parameter.device if own.dim() else own.device
                    optimizer.state[parameter][key] = own.to(place, copy=True)


def _names(step: Step) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in step.model.named_parameters()}


def _grown(moments: Tensor, origin: Origin) -> Tensor:
    if not moments.dim():
        return moments
    return moments.index_select(0, origin.rows).masked_fill_(origin.new.unsqueeze(1), 0.0)
