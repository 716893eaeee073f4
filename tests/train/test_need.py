"""A rank's memory is added up before anything starts, and what does not fit is refused with it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs.base.errors import ConfigError
from jobs.models.build import build_model
from jobs.settings.etl import EtlSettings
from jobs.settings.settings import Settings
from jobs.train.attempts import choose_tables, refuse_unfit_job
from jobs.train.launch.rank_job import TrainJob
from jobs.train.need import MemoryNeed
from jobs.train.order.share import RankShare
from tests.builders.batches import SPEC
from tests.builders.examples import write_examples
from tests.builders.training import PLACES, job_of

# A table of 10^6 rows of 16, and small ones.
LARGE = replace(SPEC, table_rows=(7, 1_000_000, 5), embedding_dims=(16, 16, 16))


def settings_of(**train: object) -> Settings:
    whole = Settings(declaration="schemas.flights:FLIGHTS", lake="l", etl=EtlSettings(sources={}))
    return whole.model_copy(update={"train": whole.train.model_copy(update=train)})


def need_of(settings: Settings) -> MemoryNeed:
    with torch.device("meta"):
        return MemoryNeed.of(build_model("mlp", LARGE), settings)


@pytest.mark.parametrize(("optimizer", "moments"), [("sgd", 0), ("adagrad", 1), ("adam", 2)])
def test_the_sum_is_that_of_the_documentation(optimizer: str, moments: int) -> None:
    need = need_of(settings_of(optimizer=optimizer))
    assert need.tables == 4 * 16 * (1_000_000 + 7 + 5 - 2)
    weights = need.tables + need.layers
    beside = (2_048 << 20) + (1 << 30)
    assert need.total == 4 * weights * (1 + moments) + 2 * weights * max(1, moments) + beside


def test_short_rows_and_one_moment_a_row_need_less() -> None:
    need = need_of(settings_of(optimizer="row_adagrad", tables="sharded", table_dtype="float16"))
    rows = 1_000_000 + 7 + 5 - 2
    assert (need.tables, need.table_moments) == (0, 0)
    assert need.shared == 2 * 16 * rows + 4 * rows
    assert need.layer_moments == need.layers


@pytest.mark.parametrize("ranks", [1, 2, 3, 16])
def test_a_rank_that_shares_tables_needs_its_share(ranks: int) -> None:
    need = need_of(settings_of(optimizer="adam", tables="sharded", workers=ranks))
    state, layers = need.shared, need.layers
    assert state == 3 * need_of(settings_of(optimizer="adam")).tables
    # While the pieces of a lost rank are dealt out: two copies, then a piece and its copies.
    pieces = {1: 2.0, 2: 1.0 + 2.0, 3: 2 / 3 + 3 / 2, 16: 2 / 16 + 3 / 15}[ranks] * state
    assert abs(need.total - pieces - 16 * layers - (2_048 << 20) - (1 << 30)) < 4


@pytest.mark.parametrize("ranks", [1, 2, 3, 16])
def test_with_its_copies_on_disk_a_rank_needs_its_piece_alone(ranks: int) -> None:
    shared = {"optimizer": "adam", "tables": "sharded", "workers": ranks}
    need = need_of(settings_of(**shared, table_copies="disk"))
    # With a rank fewer, where one may be lost.
    piece = need.shared / max(1, ranks - 1)
    assert abs(need.total - piece - 16 * need.layers - (2_048 << 20) - (1 << 30)) < 4
    copied = need_of(settings_of(**shared))
    assert copied.total - need.total >= need.shared / ranks
    most = settings_of(**shared, memory_mb=1)
    with pytest.raises(ConfigError, match=r"a piece of .*= [0-9,]+ MB") as refused:
        need.refuse_excess(most)
    assert "table_copies" not in (refused.value.remedy or "")
    with pytest.raises(ConfigError) as refused:
        copied.refuse_excess(most)
    assert "set train.table_copies to disk" in (refused.value.remedy or "")


def test_tables_are_sharded_where_whole_ones_do_not_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "millstream.train")
    examples = write_examples(tmp_path / "lake", PLACES)
    needed = {}
    for most in (None, 4_000, 3_100):
        job = job_of(examples, tmp_path / "run", tables="auto", memory_mb=most)
        # 3.3 GB with Adam's moments and all copies, where tables are whole.
        job = replace(job, spec=replace(job.spec, table_rows=(1_000_000, 7, 5)))
        needed[most] = choose_tables(job).settings.train.tables
    assert needed == {None: "replicated", 4_000: "replicated", 3_100: "sharded"}
    assert "train.tables is auto: sharded, since a rank with all tables may take" in caplog.text
    assert caplog.messages[-1].endswith(
        " MB, and train.memory_mb is 3100, train.table_dtype float32"
    )


def test_a_model_that_does_not_fit_is_refused_with_the_sum() -> None:
    need = need_of(settings_of())
    enough = -(-need.total >> 20)
    need.refuse_excess(settings_of())
    need.refuse_excess(settings_of(memory_mb=enough))
    with pytest.raises(ConfigError, match=rf"{62} \(tables\).*= {enough:,} MB") as refused:
        need.refuse_excess(settings_of(memory_mb=enough - 1))
    assert "train.memory_mb" in (refused.value.expected or "")


def test_no_rank_reads_more_streams_than_the_one_whose_memory_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(write_examples(tmp_path / "lake", PLACES), tmp_path / "run", workers=3)
    asked = []

    def stream(self: TrainJob, split: str, rank: int, size: int) -> None:
        asked.append(rank)

    monkeypatch.setattr(TrainJob, "stream", stream)
    refuse_unfit_job(job)
    rows, streams = job.settings.train.batch_rows, job.settings.stream.streams
    owned = [len(RankShare(1_000, streams, rows, rank, 3).owned) for rank in range(3)]
    assert len(set(owned)) > 1
    assert all(owned[rank] == max(owned) for rank in asked)
