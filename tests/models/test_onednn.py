"""oneDNN's linear layers give the model's scores, and leave the model as it is."""

from __future__ import annotations

import torch
from torch import nn

from jobs.models.onednn import OneDnnLinear, with_onednn


class Shared(nn.Module):
    """Layers at several places, in other shapes, without a bias, of another dtype, and none."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(359, 128), nn.ReLU(), nn.Linear(128, 8, bias=False))
        self.again = nn.ModuleList([self.first[2], nn.Sequential()])
        self.last = nn.Linear(8, 1).double()
        self.lacks = None
        self.register_module("nothing", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.again[0](self.first[1](self.first[0](x)))
        assert self.nothing is None
        return self.last(hidden.double())


def test_scores_are_the_models_but_for_their_last_bits() -> None:
    torch.manual_seed(1)
    model, x = Shared(), torch.randn(50, 3, 359)
    with torch.inference_mode():
        expected, found = model(x), with_onednn(model)(x)
        none = with_onednn(model)(x[:0])
    assert expected.std() > 0.01
    assert (found - expected).abs().max() <= 1e-5
    assert none.shape == (0, 3, 1)


def test_the_model_stays_and_shares_its_parameters() -> None:
    model = Shared()
    fast = with_onednn(model)
    assert not any(isinstance(module, OneDnnLinear) for module in model.modules())
    kinds = [type(module) for module in fast.modules() if isinstance(module, nn.Linear)]
    assert kinds.count(OneDnnLinear) == 2 and kinds.count(nn.Linear) == 1
    assert fast.first[2] is fast.again[0]
    own = dict(model.named_parameters())
    assert all(own[name] is parameter for name, parameter in fast.named_parameters())


def test_a_layer_of_the_users_own_is_left_alone() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    model, x = nn.Sequential(Doubled(4, 3)), torch.randn(5, 4)
    assert torch.equal(with_onednn(model)(x), model(x))
