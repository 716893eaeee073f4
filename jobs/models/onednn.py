"""Linear layers by oneDNN, for inference of many rows on CPUs.

PyTorch multiplies float32 matrices by MKL, which leaves half of a processor's width unused where
Intel did not make it; oneDNN uses all of any (https://github.com/uxlfoundation/oneDNN). Results
differ in their last bits, so training and serving keep to MKL.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class OneDnnLinear(nn.Linear):
    """A linear layer whose product oneDNN computes, as torch's own compiled inference does."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        if input.dtype != torch.float32 or input.device.type != "cpu" or not input.numel():
            return super().forward(input)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self.weight, self.bias, "none", [], ""
        )
        return product


def with_onednn(model: M) -> M:
    """The model with oneDNN's linear layers: the same parameters, not copied; `model` stays.

    Only plain float32 layers are replaced; the same model where torch has no oneDNN.
    """
    is_there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return _twin(model, {}) if is_there else model


def _twin(module: Any, known: dict[int, Any]) -> Any:
    """Args: known: the twins of modules that stand at several places, by what these are."""
    if isinstance(module, torch.jit.ScriptModule):
        return module
    if id(module) not in known:
        known[id(module)] = twin = copy.copy(module)
        if type(module) is nn.Linear and module.weight.dtype == torch.float32:
            twin.__class__ = OneDnnLinear
        children = module._modules.items()
        twin._modules = {
            name: child if child is None else _twin(child, known) for name, child in children
        }
    return known[id(module)]
