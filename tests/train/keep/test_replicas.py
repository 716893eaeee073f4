"""All ranks hold the same weights; one that does not is named before anything is kept."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.lake.examples import Examples
from jobs.train import rank as rank_module
from jobs.train.exchange.exchange import Exchange
from jobs.train.keep.checkpoint import listed
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.replicas import ReplicasDiffer, sum_of_bits
from jobs.train.keep.snapshot import take
from jobs.train.launch.rank_job import RankResult
from jobs.train.rank import train_rank
from jobs.train.step.history import Position
from jobs.train.step.rowledger import RowLedger
from jobs.train.step.step import Step, StepResult
from tests.builders.batches import in_ranks
from tests.builders.devices import DEVICES
from tests.builders.examples import write_examples
from tests.builders.reference import fresh_model, settings_of
from tests.builders.training import PLACES, job_of


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), PLACES)


def change_one_bit(tensor: Tensor) -> None:
    with torch.no_grad():
        flat = tensor.detach().view(-1)
        flat[len(flat) // 2] = torch.nextafter(flat[len(flat) // 2], torch.tensor(9.0).to(flat))


@pytest.mark.parametrize(
    ("size", "changed", "named"),
    [
        (3, [2], "the weights of rank 2 differ from those of the other ranks"),
        (3, [0], "the weights of rank 0 differ from those of the other ranks"),
        (4, [1, 3], "the weights of ranks 1, 3 differ from those of rank 0"),
        (2, [1], "the weights of rank 1 differ from those of rank 0"),
    ],
)
def test_the_rank_that_differs_is_named(size: int, changed: list[int], named: str) -> None:
    model = fresh_model()

    def work(exchange: Exchange) -> None:
        step = Step(copy.deepcopy(model), settings_of(), exchange)
        take(step, Position(), RowLedger())
        if exchange.rank in changed:
            for _ in range(1 + exchange.rank):
                change_one_bit(next(step.model.parameters()))
        take(step, Position(row=256), RowLedger())

    with pytest.raises(ReplicasDiffer) as raised:
        in_ranks(work, size)
    assert str(raised.value).startswith(f"{named} at epoch 1, row 256")


def test_a_training_whose_replicas_part_ends_without_a_checkpoint(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Parts(Step):
        steps = 0

        def run(self, *batches: Any, **told: Any) -> StepResult:
            done = super().run(*batches, **told)
            self.steps += 1
            if self.exchange.rank == 1 and self.steps == 2:
                change_one_bit(next(self.model.parameters()))
            return done

    monkeypatch.setattr(rank_module, "Step", Parts)
    job = job_of(examples, tmp_path, commit_steps=3, checkpoint_rows=256)

    def work(exchange: Exchange) -> RankResult:
        return train_rank(job, exchange, RankMemory())

    with pytest.raises(ReplicasDiffer, match="rank 1"):
        in_ranks(work, 3)
    rows = [int(url.rsplit("/", 1)[-1].removeprefix("at-")) for url in listed(job.folder)]
    assert len(rows) <= 1, "of the step before, at most"
    assert not list(tmp_path.glob("best-*"))


@pytest.mark.parametrize("device", DEVICES)
def test_every_dtype_and_every_element_counts(device: str) -> None:
    tensors = {
        "floats": torch.arange(7.0),
        "halves": torch.arange(5).half(),
        "ids": torch.arange(3),
        "flags": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "none": torch.empty(0),
        "strided": torch.arange(12.0).view(3, 4).t(),
    }
    on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
    whole = sum_of_bits(on_device)
    assert whole == sum_of_bits(tensors) == sum_of_bits(copy.deepcopy(tensors))
    for name, tensor in tensors.items():
        for index in range(tensor.numel()):
            other = copy.deepcopy(on_device)
            flat = other[name].reshape(-1)
            flat[index] = ~flat[index] if flat.dtype == torch.bool else flat[index] + 1
            other[name] = flat.view(tensor.shape)
            assert sum_of_bits(other) != whole, (name, index)
    swapped = {**tensors, "floats": tensors["floats"] + 1, "strided": tensors["strided"] - 1}
    assert sum_of_bits(swapped) != whole


def test_rows_of_one_tensor_count_wherever_they_begin() -> None:
    together = torch.arange(30.0).view(6, 5)
    for row in together:
        assert sum_of_bits({"row": row}) == sum_of_bits({"row": row.clone()})
