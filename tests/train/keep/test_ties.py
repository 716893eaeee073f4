"""Tied parameters: one tensor with two names is trained once, kept once, and stays tied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from jobs.base.errors import ConfigError
from jobs.batch.batch import Batch
from jobs.lake.examples import Examples
from jobs.models.artifact import load_model, save_model
from jobs.models.build import build_model, predict
from jobs.models.folder import WEIGHTS
from jobs.models.spec import ModelSpec
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.resume import newest_of_run
from jobs.train.rank import train_rank
from jobs.train.step.step import Step
from tests.builders.batches import SPEC, batch_of, in_ranks
from tests.builders.examples import write_examples
from tests.builders.reference import BATCHES, in_groups, plain_loop, settings_of, trained
from tests.builders.training import PLACES, Killed, Mortal, job_of

TIED = "tests.train.keep.test_ties:Tied"
# Its tensors, each by its first name.
ONCE = ["net.dense.bias", "net.dense.weight", "net.left.weight", "net.output.weight"]


class Tied(nn.Module):
    """The output layer is the first table; two other tables are one."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        rows = max(spec.table_rows)
        self.output = nn.Linear(4, rows, bias=False)
        self.table = nn.Embedding(rows, 4)
        self.table.weight = self.output.weight
        self.left = nn.Embedding(rows, 3)
        self.right = nn.Embedding(rows, 3)
        self.right.weight = self.left.weight
        self.dense = nn.Linear(spec.num_dense, 1)

    def forward(self, batch: Batch) -> Tensor:
        one, two, three = batch.sparse.unbind(1)
        every = self.output(self.table(one))
        pairs = (self.left(two) * self.right(three)).sum(1)
        numbers = batch.dense.nan_to_num().to(self.dense.weight.dtype) / 100
        chosen = every.gather(1, two.unsqueeze(1)).squeeze(1)
        return chosen + pairs + self.dense(numbers).squeeze(1)


class Overlapping(Tied):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.right.weight = nn.Parameter(self.left.weight.data[1:])


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), PLACES)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
def test_a_tied_model_ends_with_the_plain_loops_weights(optimizer: str) -> None:
    settings = settings_of(optimizer=optimizer)
    torch.manual_seed(5)
    model = build_model(TIED, SPEC).double()
    again = build_model(TIED, SPEC).double()
    again.load_state_dict(model.state_dict())
    expected = plain_loop(again, settings, in_groups(BATCHES, 1))
    assert sorted(expected) == ONCE

    def work(exchange: Exchange) -> dict[str, Tensor]:
        own = build_model(TIED, SPEC).double()
        own.load_state_dict(model.state_dict())
        return trained(exchange, own, settings, BATCHES)

    for weights in (work(Alone()), *in_ranks(work, 3)):
        for name, weight in expected.items():
            assert torch.allclose(weights[name], weight, rtol=0, atol=1e-10), name


def test_a_tied_model_trains_saves_resumes_and_loads(examples: Examples, tmp_path: Path) -> None:
    train = {"model": TIED, "commit_steps": 1, "checkpoint_rows": 512}
    whole = train_rank(job_of(examples, tmp_path / "whole", **train), Alone(), RankMemory())
    job = job_of(examples, tmp_path / "killed", **train)
    with pytest.raises(Killed):
        train_rank(job, Alone(), Mortal(10))
    result = train_rank(replace(job, resume=newest_of_run(job.folder)), Alone(), RankMemory())
    assert result.digest == whole.digest

    assert result.history.best is not None
    folder = job.best_folder(result.history.best.epoch)
    assert sorted(load_file(f"{folder}/{WEIGHTS}")) == ONCE
    net = load_model(folder).model.net
    assert net.table.weight is net.output.weight
    assert net.right.weight is net.left.weight


def test_a_saved_tied_model_scores_as_it_did(tmp_path: Path) -> None:
    model = build_model(TIED, SPEC)
    save_model(str(tmp_path / "model"), model, TIED, SPEC, {})
    batch = batch_of(64, seed=2)
    loaded = load_model(str(tmp_path / "model")).model
    assert torch.equal(predict(loaded, batch), predict(model, batch))


def test_parameters_that_only_share_memory_are_refused_at_the_start() -> None:
    model = build_model("tests.train.keep.test_ties:Overlapping", SPEC)
    with pytest.raises(ConfigError, match=r"net\.left\.weight and net\.right\.weight share memory"):
        Step(model, settings_of(), Alone())
