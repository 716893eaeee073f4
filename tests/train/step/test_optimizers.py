"""Learning rates: by rows of a step, and by rows consumed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.settings.train import TrainSettings
from jobs.train.step.optimizers import RowSGD, base_rate, make_optimizers, schedule_factor, update
from tests.builders.devices import DEVICES


def settings_of(**changes: Any) -> TrainSettings:
    return TrainSettings(**{"learning_rate": 0.05, **changes})


def test_the_rate_scales_with_the_rows_of_a_step() -> None:
    scaled = settings_of(base_batch_rows=1024, batch_rows=2048, accumulate_steps=4)
    assert base_rate(scaled) == pytest.approx(0.05 * 8)
    assert base_rate(settings_of(batch_rows=2048)) == 0.05


rows = st.floats(0, 1e12)
totals = st.integers(1, 10**12)
warmups = st.integers(0, 10**9)


@given(rows, totals, warmups, st.sampled_from(["constant", "cosine"]))
def test_a_factor_lies_between_0_and_1(row: float, total: int, warmup: int, kind: str) -> None:
    settings = settings_of(schedule=kind, warmup_rows=warmup)
    assert 0 <= schedule_factor(settings, row, total) <= 1


@given(totals, warmups, st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_cosine_rises_in_the_warm_up_and_falls_after_it(
    total: int, warmup: int, shares: list[float]
) -> None:
    settings = settings_of(schedule="cosine", warmup_rows=warmup)
    rising = [schedule_factor(settings, share * warmup * 0.999, total) for share in sorted(shares)]
    falling = [schedule_factor(settings, warmup + share * total, total) for share in sorted(shares)]
    assert rising == sorted(rising) or warmup == 0
    assert falling == sorted(falling, reverse=True)


def test_schedules_at_known_rows() -> None:
    cosine = settings_of(schedule="cosine", warmup_rows=100)
    assert schedule_factor(cosine, 50, 1100) == 0.5
    assert schedule_factor(cosine, 100, 1100) == 1.0
    assert schedule_factor(cosine, 600, 1100) == pytest.approx(0.5)
    assert schedule_factor(cosine, 1100, 1100) == pytest.approx(0.0)
    assert schedule_factor(settings_of(schedule="constant"), 10**9, 5) == 1.0


@given(
    st.integers(1, 9),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.integers(0, 3),
    st.sampled_from(DEVICES),
)
def test_rows_of_any_width_and_place_are_updated_and_no_others(
    width: int, dtype: torch.dtype, offset: int, device: str
) -> None:
    numbers = torch.arange(offset + 6 * width, dtype=dtype, device=device)
    table = torch.nn.Parameter(numbers[offset:].view(6, width))
    expected = table.detach().clone()
    ids = torch.tensor([1, 4], device=device)
    gradient = torch.ones(2, width, dtype=dtype, device=device)
    expected[ids] -= 0.5 * gradient
    table.grad = torch.sparse_coo_tensor(ids.unsqueeze(0), gradient, table.shape, is_coalesced=True)
    RowSGD([table], lr=0.5).step()
    assert torch.equal(table.detach(), expected)


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam"])
def test_an_update_is_a_step_of_torchs(kind: str) -> None:
    def trained(update_by: Callable[[torch.optim.Optimizer], object]) -> list[torch.Tensor]:
        torch.manual_seed(3)
        layer, table = torch.nn.Linear(3, 2), torch.nn.Embedding(5, 2, sparse=True)
        settings = settings_of(optimizer=kind, weight_decay=0.1)
        for optimizer in make_optimizers(settings, list(layer.parameters()), [table.weight]):
            for row in range(3):
                (layer(torch.ones(1, 3)) * table(torch.tensor([row]))).sum().backward()
                assert table.weight.grad is not None
                table.weight.grad = table.weight.grad.coalesce()
                update_by(optimizer)
                optimizer.zero_grad(set_to_none=True)
        return [layer.weight.detach(), table.weight.detach()]

    for ours, theirs in zip(trained(update), trained(lambda o: o.step()), strict=True):
        assert torch.equal(ours, theirs)


def test_training_does_not_load_torchs_compiler() -> None:
    code = """if True:
        import sys, torch
        from jobs.settings.train import TrainSettings
        from jobs.train.attempts import _Undrawn
        from jobs.train.step.optimizers import make_optimizers, update
        with torch.device("meta"), _Undrawn():
            torch.nn.Embedding(2, 2)
        weight = torch.nn.Parameter(torch.ones(2))
        (optimizer,) = make_optimizers(TrainSettings(), [weight], [])
        weight.sum().backward()
        update(optimizer)
        optimizer.zero_grad()
        optimizer.load_state_dict(optimizer.state_dict())
        sys.exit("torch._dynamo" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
