"""Rows without a key: each line is its own, identical ones are numbered, none is lost."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.etl import job
from jobs.etl.judge import judging
from jobs.etl.raw import sources
from jobs.lake.examples import Examples
from jobs.lake.ledger import new_run_id
from jobs.settings.load import load_settings
from tests.builders.lines import lines_of, write_lines

DS = "2026-01-01"
REFUSED = ["1\t5\t7\txyz1\t0001", "1\t5\t7\t0001\t00012", "0\t5\t7\t0001", "1\tmany\t7\t0001\t0001"]
LINES = [*lines_of(200), *lines_of(30), *lines_of(10), *REFUSED, REFUSED[0]]


def etl(
    folder: Path, spark: SparkSession, files: list[list[str]]
) -> tuple[Examples, job.EtlResult]:
    settings = load_settings(write_lines(folder, DS, files), [])
    result = job.run(settings, spark, run_id=new_run_id("etl"), dates=[DS])
    return Examples.open(result.url), result


def rows_of(examples: Examples) -> pd.DataFrame:
    parts = []
    for shard in examples.shards():
        with Path(examples.url, shard.path).open("rb") as file:
            parts.append(pq.read_table(file).to_pandas().assign(split=shard.split))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory, spark: SparkSession
) -> tuple[Examples, job.EtlResult]:
    return etl(tmp_path_factory.mktemp("lines"), spark, [LINES])


def test_identical_lines_all_stay_with_row_ids_of_their_own(
    reference: tuple[Examples, job.EtlResult],
) -> None:
    rows, counts_ = rows_of(reference[0]), reference[1].counts[DS]
    assert (counts_.raw, len(rows), counts_.quarantined) == (245, 240, 5)
    assert rows["row_id"].is_unique
    counts = Counter(np.round(np.expm1(rows["count_log"])).astype(int))
    assert counts == Counter(int(line.split("\t")[1]) for line in LINES[:240])
    # One line in two splits would be learned in one and asked for in the other.
    assert rows.groupby("count_log")["split"].nunique().max() == 1


def test_a_pattern_that_columns_share_is_judged_for_each(
    reference: tuple[Examples, job.EtlResult],
) -> None:
    assert reference[1].counts[DS].reasons == {
        "pattern:a": 2,
        "pattern:b": 1,
        "malformed": 1,
        "unparsable:count": 1,
    }


def test_numbers_that_float32_would_merge_have_ids_of_their_own(
    reference: tuple[Examples, job.EtlResult],
) -> None:
    rows = rows_of(reference[0])
    numbers = np.round(np.expm1(rows["count_log"])).astype(int) % 4
    pairs = set(zip(numbers, rows["user_id"], strict=True))
    assert len(pairs) == len({user for _, user in pairs}) == 4


@pytest.mark.parametrize("piece_bytes", [1 << 20, 700, 40])
def test_order_files_and_their_pieces_change_nothing(
    reference: tuple[Examples, job.EtlResult],
    tmp_path: Path,
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    piece_bytes: int,
) -> None:
    monkeypatch.setattr(sources, "_PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(judging, "_TASK_BYTES", 3 * piece_bytes)
    shuffled = random.Random(piece_bytes).sample(LINES, len(LINES))
    examples, result = etl(tmp_path, spark, [shuffled[:90], shuffled[90:]])
    assert result.counts == reference[1].counts
    content = [(s.split, s.number, s.row_group_rows, s.digest) for s in examples.shards()]
    assert content == [
        (s.split, s.number, s.row_group_rows, s.digest) for s in reference[0].shards()
    ]
    orders = [[s.order_digest for s in e.shards()] for e in (examples, reference[0])]
    assert orders[0] == orders[1]
