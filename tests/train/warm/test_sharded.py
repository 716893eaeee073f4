"""Warm start of sharded tables: no number of ranks, of the source or of the new model, matters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from torch import Tensor

from jobs.base.errors import DataRefused
from jobs.lake.examples import Examples
from jobs.models.artifact import load_model
from jobs.models.build import build_model, predict
from jobs.models.stored import read_moments
from jobs.models.tables.pieces import ROWS
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.launch.rank_job import TrainJob
from jobs.train.rank import step_of, train_rank
from jobs.train.start import start_of
from jobs.train.step.moments import moments_of, parameter_names
from jobs.train.warm.source import WarmStart
from jobs.train.watch.progress import Silent
from tests.builders.batches import in_ranks
from tests.builders.examples import write_examples
from tests.builders.training import PLACES, job_of

pytestmark = pytest.mark.usefixtures("models_one_by_one")

# It keeps its moments for the next one.
TRAIN = {"warm_start": "champion", "optimizer": "adam", "epochs": 1, "table_buckets": 7}
SHARDED, REPLICATED = {"tables": "sharded"}, {"tables": "replicated"}
# Name in a source: how it is trained, and by how many ranks.
SOURCES: dict[str, tuple[dict[str, Any], int]] = {
    "sharded by 2": (SHARDED, 2),
    "sharded by 5": (SHARDED, 5),
    "sharded, its copies on disk": (SHARDED | {"table_copies": "disk"}, 2),
    "whole": (REPLICATED, 1),
    "whole, in files": (REPLICATED | {"map_tables_mb": 0}, 1),
}
NEW_IDS = 12


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("lake"), PLACES)


def in_turn(work: Callable[[Exchange], Any], ranks: int) -> Any:
    return [work(Alone())] if ranks == 1 else in_ranks(work, ranks)


@pytest.fixture(scope="module")
def source_of(
    examples: Examples, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[TrainJob, WarmStart]]:
    """Trains a source, once."""
    made: dict[str, tuple[TrainJob, WarmStart]] = {}

    def trained(name: str) -> tuple[TrainJob, WarmStart]:
        if name not in made:
            changes, ranks = SOURCES[name]
            job = job_of(examples, tmp_path_factory.mktemp("source"), **TRAIN | changes)
            first = in_turn(lambda exchange: train_rank(job, exchange, RankMemory()), ranks)[0]
            folder = job.best_folder(first.history.best.epoch)
            made[name] = job, WarmStart("1", folder, ("ad", "site", "city_id"), {})
        return made[name]

    return trained


def grown(job: TrainJob, start: WarmStart, folder: Path, **changes: Any) -> TrainJob:
    """A training that starts from a source which lacks ids of the field `site`."""
    rows = job.spec.table_rows
    ids = np.arange(rows[1] + NEW_IDS, dtype=np.int32)
    ids[-NEW_IDS:] = 2 + np.arange(NEW_IDS) % 3
    spec = replace(job.spec, table_rows=(rows[0], len(ids), rows[2]))
    train = job.settings.train.model_copy(update=changes)
    return replace(
        job,
        spec=spec,
        settings=job.settings.model_copy(update={"train": train}),
        warm_start=replace(start, id_maps={"site": ids}),
        folder=str(folder),
    )


@dataclass(frozen=True)
class Beginning:
    """What a rank begins with: weights and moments of dense layers, and its pieces of tables."""

    dense: dict[str, Tensor]
    pieces: Mapping[str, Mapping[str, Tensor]]
    buckets: Mapping[str, tuple[Any, int, int]]


def begun(job: TrainJob, ranks: int) -> dict[str, Tensor]:
    """All weights and moments that a training begins with, tables whole."""

    def begin(exchange: Exchange) -> Beginning:
        step, memory = step_of(job, exchange), RankMemory()
        start_of(job, step, memory, Silent())
        if memory.writer is not None:
            memory.writer.close()
        last = memory.last
        assert last is not None
        moments = moments_of(last.optimizer, parameter_names(step))
        pieces = last.tables.own if last.tables else {}
        buckets = {t.name: (t.buckets, t.rank, t.ranks) for t in step.sharded.tables}
        return Beginning(last.weights | moments, pieces, buckets)

    found = in_turn(begin, ranks)
    whole = dict(found[0].dense)
    for name, piece in found[0].pieces.items():
        for key, values in piece.items():
            table = torch.empty(found[0].buckets[name][0].rows, *values.shape[1:]).to(values)
            for own in found:
                buckets, rank, of = own.buckets[name]
                table[buckets.ids(rank, of)] = own.pieces[name][key]
            whole[name if key == ROWS else f"{name}/{key}"] = table
    return whole


def assert_same(found: dict[str, Tensor], known: dict[str, Tensor]) -> None:
    assert found.keys() == known.keys()
    for name, value in known.items():
        assert torch.equal(found[name], value), name


def scores(job: TrainJob, weights: dict[str, Tensor], ids: np.ndarray | None) -> Tensor:
    """Of rows of all ids of the field `site`; with a map, of those ids in the source."""
    model = build_model(job.settings.train.model, job.spec)
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    batch = next(iter(job.stream("val", 0, 1).epoch(0)))
    rows = job.spec.table_rows[1] if ids is None else len(ids)
    batch = batch[: min(len(batch), 200)]
    sites = torch.arange(len(batch)) % rows
    sparse = batch.sparse.clone()
    sparse[:, 1] = sites if ids is None else torch.from_numpy(ids)[sites].long()
    return predict(model, replace(batch, sparse=sparse))


@pytest.mark.parametrize("name", SOURCES)
def test_any_ranks_begin_with_the_bits_of_whole_tables(
    name: str, source_of: Callable[[str], tuple[TrainJob, WarmStart]], tmp_path: Path
) -> None:
    job, start = source_of(name)
    after = grown(job, start, tmp_path, tables="replicated")
    known = begun(after, 1)
    source = load_model(start.folder, map_files=False)
    before = source.model.state_dict()
    ids = after.warm_start.id_maps["site"] if after.warm_start else None
    assert torch.equal(scores(after, known, None), scores(job, before, ids)), "as its source"
    moments = [key for key in known if key.endswith("/exp_avg_sq")]
    assert len(moments) == len(list(source.model.parameters()))
    assert all(known[key].any() for key in moments)
    for ranks in (1, 2, 3):
        assert_same(begun(grown(job, start, tmp_path, tables="sharded"), ranks), known)


def test_a_source_in_an_object_store_is_copied_once_and_read_there(
    source_of: Callable[[str], tuple[TrainJob, WarmStart]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, start = source_of("sharded by 2")
    known = begun(grown(job, start, tmp_path), 2)
    url = f"memory://{tmp_path}/best"
    for path in (path for path in Path(start.folder).rglob("*") if path.is_file()):
        place = f"{url}/{path.relative_to(start.folder)}"
        fsspec.filesystem("memory").pipe_file(place, path.read_bytes())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # One rank: those that are threads would share a file's position there.
    assert_same(begun(grown(job, replace(start, folder=url), tmp_path), 1), known)
    for kind in ("copies", "moments"):
        copies = [path for path in tmp_path.glob(f"millstream-*/{kind}/*") if path.is_dir()]
        assert len(copies) == 1, kind
        assert {path.name for path in copies[0].rglob("*.safetensors")} == {
            "buckets-0-of-2.safetensors",
            "buckets-1-of-2.safetensors",
        }


@pytest.mark.parametrize("name", ["sharded by 2", "whole"])
def test_tables_that_the_declaration_puts_elsewhere_begin_as_they_were(
    name: str, source_of: Callable[[str], tuple[TrainJob, WarmStart]], tmp_path: Path
) -> None:
    job, start = source_of(name)
    after = grown(job, start, tmp_path, tables="replicated")
    after = replace(after, spec=replace(after.spec, table_places=("", "sharded", "")))
    assert after.warm_start is not None
    known = begun(after, 3)
    before = load_model(start.folder, map_files=False).model.state_dict()
    expected = scores(job, before, after.warm_start.id_maps["site"])
    assert torch.equal(scores(after, known, None), expected)
    assert {key for key in known if key.endswith("/exp_avg_sq") and known[key].any()}
    assert_same(begun(after, 1), known)


def test_new_rows_copy_their_oov_bucket_and_have_no_moments(
    source_of: Callable[[str], tuple[TrainJob, WarmStart]], tmp_path: Path
) -> None:
    job, start = source_of("sharded by 2")
    known, found = begun(grown(job, start, tmp_path), 3), load_model(start.folder)
    moments = read_moments(start.folder)
    assert moments is not None
    (name,) = (name for name in found.tables if "embeddings" in name)
    first, last = job.spec.table_rows[0], job.spec.table_rows[2] - 1
    ids = first - 1 + 2 + torch.arange(NEW_IDS) % 3
    begin = known[name].shape[0] - last - NEW_IDS
    new = slice(begin, begin + NEW_IDS)
    assert torch.equal(known[name][new], found.tables[name].rows(ids))
    for key in ("exp_avg", "exp_avg_sq"):
        assert not known[f"{name}/{key}"][new].any()
        old = moments.tables[name].whole(key)
        assert torch.equal(known[f"{name}/{key}"][:begin], old[:begin]) and old[ids].any()
        assert torch.equal(known[f"{name}/{key}"][begin + NEW_IDS :], old[begin:])


def test_rows_are_converted_to_another_dtype(
    source_of: Callable[[str], tuple[TrainJob, WarmStart]], tmp_path: Path
) -> None:
    job, start = source_of("sharded by 2")
    whole = begun(grown(job, start, tmp_path), 2)
    short = begun(grown(job, start, tmp_path, table_dtype="bfloat16"), 3)
    tables = [name for name, value in short.items() if value.dtype == torch.bfloat16]
    assert tables
    for name, value in whole.items():
        assert torch.equal(short[name], value.to(short[name].dtype)), name


def test_a_training_of_its_own_goes_on_from_where_the_source_was(
    source_of: Callable[[str], tuple[TrainJob, WarmStart]], tmp_path: Path
) -> None:
    job, start = source_of("sharded by 5")
    kept = []
    for ranks, tables in ((3, "sharded"), (1, "replicated")):
        run = grown(job, start, tmp_path / tables, tables=tables)
        first = in_turn(lambda exchange, run=run: train_rank(run, exchange, RankMemory()), ranks)[0]
        folder = run.best_folder(first.history.best.epoch)
        kept.append(load_model(folder, map_files=False).model.state_dict())
    for name, value in kept[1].items():
        assert torch.allclose(kept[0][name], value, rtol=0, atol=1e-4), name


@pytest.mark.parametrize("damage", ["torn", "flipped", "missing"])
@pytest.mark.parametrize("kind", ["tables", "moments"])
def test_a_damaged_file_of_a_table_is_named(
    kind: str,
    damage: str,
    examples: Examples,
    tmp_path: Path,
) -> None:
    job = job_of(examples, tmp_path / "source", **TRAIN | SHARDED)
    first = in_ranks(lambda exchange: train_rank(job, exchange, RankMemory()), 2)[0]
    assert first.history.best is not None
    folder = Path(job.best_folder(first.history.best.epoch))
    path = next((folder / kind).rglob("buckets-1-of-2.safetensors"))
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        path.write_bytes(content[:-8] if damage == "torn" else flipped)
    start = WarmStart("1", str(folder), ("ad", "site", "city_id"), {})
    with pytest.raises(DataRefused, match=rf"{kind}/\S+buckets-1-of-2|buckets-1-of-2"):
        begun(grown(job, start, tmp_path / "after"), 1)
