"""Fields whose tables the declaration puts at a place: some sharded, some whole, in one model."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jobs.base.errors import ConfigError
from jobs.batch.batch import Batch
from jobs.models.artifact import load_model
from jobs.models.build import build_model, predict
from jobs.models.layers import Embeddings
from jobs.models.spec import ModelSpec
from jobs.train.attempts import choose_tables, refuse_unfit_job
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.resume import newest_of_run
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.need import MemoryNeed
from jobs.train.rank import train_rank
from jobs.train.step.step import Step
from jobs.train.step.validation import validate
from jobs.train.tables.table import shard
from tests.builders.batches import SPEC, batch_of, in_ranks
from tests.builders.examples import CLICKS, write_examples
from tests.builders.reference import BATCHES, settings_of, weights_of
from tests.builders.sharded import Part, part_of, piece_of, replicated, run, weights_of_all
from tests.builders.training import PLACES, Mortal, job_of
from tests.builders.visits import VISITS
from tests.train.tables.test_training import Unhurried, assert_near, best_weights, killed_at

EQUAL = replace(SPEC, embedding_dims=(4, 4, 3))
PLACED = replace(EQUAL, table_places=("replicated", "sharded", ""))


@pytest.mark.parametrize("name", ["mlp", "wide_deep", "dlrm", "dcn_v2"])
def test_a_place_changes_no_score(name: str) -> None:
    whole, placed = build_model(name, EQUAL), build_model(name, PLACED)
    layers = {n: w for n, w in whole.state_dict().items() if ".tables." not in n}
    assert layers.keys() == {n for n in placed.state_dict() if ".tables." not in n}
    found = dict(placed.state_dict()) | layers
    for layer in {n.split(".tables.")[0] for n in whole.state_dict() if ".tables." in n}:
        ours, theirs = placed.get_submodule(layer), whole.get_submodule(layer)
        for c, rows in enumerate(EQUAL.table_rows):
            (own, first), (of, begin) = ours.place(c), theirs.place(c)
            source = theirs.tables[of].weight.detach()[begin : begin + rows - 1]
            found[f"{layer}.tables.{own}.weight"][first : first + rows - 1] = source
    placed.load_state_dict(found)
    batch = batch_of(50, seed=3)
    assert torch.equal(predict(placed, batch), predict(whole, batch))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("tables", ["replicated", "sharded"])
@pytest.mark.parametrize("changes", [{}, {"clip_norm": 0.05}, {"table_sums": "batch"}], ids=str)
def test_mixed_tables_train_as_whole_ones(tables: str, changes: dict[str, Any], size: int) -> None:
    settings = settings_of(optimizer="adam", **changes)
    made = [
        piece_of("wide_deep", settings, rank, size, torch.float64, PLACED, tables)
        for rank in range(size)
    ]
    assert len(made[0][1]) == (4 if tables == "sharded" else 2), "of the deep and the wide part"

    def work(exchange: Exchange) -> Part:
        model, pieces = made[exchange.rank]
        return part_of(run(Step(model, settings, exchange, pieces), BATCHES))

    found = weights_of_all([work(Alone())] if size == 1 else in_ranks(work, size))
    step = run(replicated("wide_deep", settings, Alone(), torch.float64, PLACED), BATCHES)
    known = weights_of(step.model)
    assert found.keys() == known.keys()
    for name, weight in known.items():
        assert torch.allclose(found[name], weight, rtol=0, atol=1e-10), name


# Trainings


def placed_job(folder: Path, *, name: str = "wide_deep", **train: Any) -> TrainJob:
    examples = write_examples(folder / "lake", PLACES)
    job = job_of(examples, folder / "run", model=name, table_buckets=7, **train)
    return replace(job, spec=replace(job.spec, table_places=("replicated", "sharded", "")))


@pytest.mark.usefixtures("models_one_by_one")
def test_a_training_of_both_stores_the_model_of_whole_tables(tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "learning_rate": 0.5, "map_tables_mb": 0}
    kept: list[tuple[dict[str, Tensor], set[int]]] = []
    for ranks, tables in ((2, "replicated"), (1, "sharded")):
        job = placed_job(tmp_path / tables, tables=tables, **settings)

        def work(exchange: Exchange, job: TrainJob = job) -> Any:
            return train_rank(job, exchange, RankMemory())

        first = work(Alone()) if ranks == 1 else in_ranks(work, ranks)[0]
        folder = job.best_folder(first.history.best.epoch)
        files = {of.table.ranks for of in load_model(folder).tables.values()}
        kept.append((load_model(folder, map_files=False).model.state_dict(), files))
    assert [files for _, files in kept] == [{1, 2}, {1}], "files of a rank, and of one alone"
    for name, weight in kept[0][0].items():
        assert torch.allclose(kept[1][0][name], weight, rtol=0, atol=1e-5), name


@pytest.mark.usefixtures("models_one_by_one")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_training_of_both_is_gone_on_with_by_other_ranks(ranks: int, tmp_path: Path) -> None:
    changes = {"optimizer": "adagrad", "commit_steps": 1, "checkpoint_rows": 512}
    known = placed_job(tmp_path / "known", **changes)
    best = best_weights(known, train_rank(known, Alone(), RankMemory()))
    job = placed_job(tmp_path / "killed", **changes, checkpoint_whole_every=3)
    killed_at(job, [Unhurried(), RankMemory(), Mortal(7)])
    job = replace(job, resume=newest_of_run(job.folder))

    def go_on(exchange: Exchange) -> RankResult:
        return train_rank(job, exchange, RankMemory())

    first = go_on(Alone()) if ranks == 1 else in_ranks(go_on, ranks)[0]
    assert_near(best_weights(job, first), best)


def test_the_field_s_word_goes_before_that_of_the_settings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "millstream.train")
    needs = {}
    for most in (4_000, 3_350):
        job = placed_job(tmp_path / str(most), tables="auto", memory_mb=most)
        rows = (100_000, 200_000, 1_000_000)
        job = choose_tables(replace(job, spec=replace(job.spec, table_rows=rows)))
        needs[most] = refuse_unfit_job(job)
        assert job.settings.train.tables == ("replicated" if most == 4_000 else "sharded")
    for need in needs.values():
        assert isinstance(need, MemoryNeed) and need.ranks == 2
        # Of four values in the deep part, and one in the wide one, with Adam's moments.
        assert need.shared >= 3 * 4 * 5 * 199_999
        assert need.tables >= 4 * 5 * 99_999, "it stays whole, fits or not"


def test_a_model_that_ignores_places_is_refused(tmp_path: Path) -> None:
    job = placed_job(tmp_path, name="tests.builders.models:OwnTable")
    with pytest.raises(ConfigError, match=r"table='replicated', but no table of train\.model"):
        refuse_unfit_job(job)
    with pytest.raises(ConfigError, match=r"table='replicated', but no table of train\.model"):
        train_rank(job, Alone(), RankMemory())


def test_a_place_changes_no_digest_of_the_declaration() -> None:
    fields = tuple(replace(f, table="sharded") if f.name == "shop_id" else f for f in VISITS.fields)
    placed = replace(VISITS, fields=fields)
    assert placed.digest == VISITS.digest
    assert placed.field_digests == VISITS.field_digests
    (ad,) = (f for f in CLICKS.categorical if f.name == "ad")
    with pytest.raises(ValueError, match="'ad': table is 'anywhere'; it may be replicated or"):
        replace(ad, table="anywhere")


class Frozen(nn.Module):
    """Tables of which nothing is trained."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.tables = Embeddings(spec.table_rows, spec.embedding_dims, 0.1, spec.table_places)
        self.tables.requires_grad_(False)
        self.last = nn.Linear(self.tables.num_outputs, 1)

    def forward(self, batch: Batch) -> Tensor:
        logits: Tensor = self.last(self.tables(batch.sparse)).squeeze(1)
        return logits


def test_a_frozen_table_is_never_trained() -> None:
    settings, device = settings_of(tables="sharded"), torch.device("cpu")
    name = f"{__name__}:Frozen"
    with pytest.raises(ConfigError, match=r"sharded, but .*tables\.0\.weight is frozen"):
        shard(build_model(name, EQUAL, with_tables=False), settings, 0, 1, device)
    whole = replace(EQUAL, table_places=("replicated",) * 3)
    model = build_model(name, whole, with_tables=False)
    step = Step(model, settings, Alone(), shard(model, settings, 0, 1, device))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    step.run(batch_of(64, seed=0))
    changed = {n for n, weight in model.named_parameters() if not torch.equal(weight, before[n])}
    assert changed == {"net.last.weight", "net.last.bias"}


class OnlyTables(nn.Module):
    """A logistic regression: a number for each value."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.tables = Embeddings(spec.table_rows, [1] * len(spec.table_rows), 0.1)

    def forward(self, batch: Batch) -> Tensor:
        return self.tables(batch.sparse).sum(1)

    def lookups(self, batch: Batch) -> Iterator[tuple[nn.Module, Tensor]]:
        return self.tables.lookups(batch)


def test_a_model_may_have_nothing_but_tables() -> None:
    name, settings = f"{__name__}:OnlyTables", settings_of()

    def work(exchange: Exchange) -> Part:
        model, tables = piece_of(name, settings, exchange.rank, exchange.size, torch.float64)
        step = run(Step(model, settings, exchange, tables), BATCHES)
        batch, sharded = batch_of(32, seed=5), step.sharded
        measured = validate(
            model, sharded.reference.device, [batch], exchange, sharded.fetch, step.slices
        )
        assert math.isfinite(measured.loss)
        return part_of(step)

    found, known = weights_of_all(in_ranks(work, 2)), weights_of_all([work(Alone())])
    _, (table,) = piece_of(name, settings, 0, 1, torch.float64)
    assert found.keys() == known.keys() == {"net.tables.tables.0.weight"}
    for weights, weight in zip(found.values(), known.values(), strict=True):
        assert torch.allclose(weights, weight, rtol=0, atol=1e-10)
        assert not torch.equal(weight, table.piece)
