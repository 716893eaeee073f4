"""Tensors of a model with several names, as where an output layer is the table of the input."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from torch import Tensor, nn

from jobs.base.errors import ConfigError


def first_names(model: nn.Module) -> dict[str, str]:
    """Each name of a parameter or buffer -> the first name of the same tensor."""
    firsts: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    return {name: firsts.setdefault(id(value), name) for name, value in state.items()}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers, each once, by its first name."""
    firsts = first_names(model)
    state = model.state_dict()
    return {name: value for name, value in state.items() if firsts[name] == name}


def set_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Sets the model's parameters and buffers to what `state_of` gave.

    Raises:
        RuntimeError: there are others, or of other shapes.
    """
    ties = first_names(model).items()
    tied = {name: state[first] for name, first in ties if first in state and name != first}
    model.load_state_dict({**state, **tied})


def refuse_overlaps(model: nn.Module) -> None:
    """Refuses parameters that share memory without being one: each would be updated in turn.

    Raises:
        ConfigError: there are some; names two.
    """
    places = sorted(
        (parameter.data_ptr(), parameter.data_ptr() + parameter.nbytes, name)
        for name, parameter in model.named_parameters()
        if not parameter.is_meta and parameter.numel()
    )
    for (_, end, one), (begin, _, other) in itertools.pairwise(places):
        if begin < end:
            raise ConfigError(
                f"the model's parameters {one} and {other} share memory, but are not one",
                "parameters that are tied as one: layer.weight = other.weight",
                "leave out .data, detach() and nn.Parameter(...) where they are tied",
            )
