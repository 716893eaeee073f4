"""Contributions' files: the same bytes, in whatever order the counts of tasks arrive."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.etl.fit import contributions
from jobs.etl.fit.contributions import Merging
from jobs.etl.fit.counting import Counter
from jobs.etl.parcels import Ints, received
from tests.builders.visits import VISITS

DAY = "2024-01-01"


def rows(number: int) -> pa.Table:
    """Valid rows of a task."""
    values = [number % 7, number % 5, number % 3]
    return pa.table(
        {
            "ds": [DAY] * 3,
            "split": ["train"] * 3,
            "shop_id": [None, "", f"shop {values[0]}"],
            "age_group": pa.array([str(value) for value in values]),
            "amount_log": pa.array([0.1 * value for value in values], pa.float32()),
            "age_years": pa.array(values, pa.float32()),
            "shop_size": pa.array([1.0, None, 2.0], pa.float32()),
        }
    )


@pytest.mark.parametrize("collide", [False, True])
def test_a_task_that_is_done_again_writes_the_same_file(
    collide: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if collide:
        whole = contributions.hashes_of
        monkeypatch.setattr(contributions, "hashes_of", lambda values: whole(values) % 2)
    merging = Merging.of(VISITS, [DAY], 1)
    sent = []
    for number in range(20):
        counter = Counter(merging.groups)
        counter.add(rows(number))
        sent += list(merging.sent(counter))
    found = set()
    for attempt in range(4):
        random.Random(attempt).shuffle(sent)
        by_part = pa.Table.from_batches(sent)
        order: Ints = by_part["part"].to_numpy().argsort(kind="stable")
        url = tmp_path / str(attempt)
        for part, contents in received(by_part.take(order).to_batches()):
            merging.written(part, contents, str(url))
        files = sorted(url.rglob("*.parquet"))
        found.add(tuple((file.name, file.read_bytes()) for file in files))
    assert len(found) == 1
