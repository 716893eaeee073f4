"""A checkpoint goes on with the rows and the order that it was made with, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.base.errors import DataRefused
from jobs.lake.examples import Examples
from jobs.train.order.fingerprint import check_fingerprint
from jobs.train.read.stream import Stream
from tests.builders.examples import CLICKS, write_examples

PLACES = {("2026-01-01", "train"): [[30, 20], [50]], ("2026-01-02", "train"): [[40]]}


def fingerprint(examples: Examples, **settings: Any) -> dict[str, Any]:
    stream = Stream(
        examples, CLICKS, **{"split": "train", "streams": 4, "batch_rows": 8, **settings}
    )
    return dict(json.loads(json.dumps(stream.fingerprint)))


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, Any]:
    return fingerprint(write_examples(tmp_path, PLACES))


def test_the_same_rows_written_again_are_no_difference(
    tmp_path: Path, stored: dict[str, Any]
) -> None:
    again = write_examples(tmp_path, PLACES, run="etl-again", token=2)

    assert again.version == 2
    check_fingerprint(stored, fingerprint(again))


def test_a_date_outside_the_selection_is_no_difference(tmp_path: Path) -> None:
    before = fingerprint(write_examples(tmp_path, PLACES), last_ds="2026-01-02")

    more = write_examples(tmp_path, {("2026-01-03", "train"): [[9]]}, run="etl-more", token=2)

    check_fingerprint(before, fingerprint(more, last_ds="2026-01-02"))
    with pytest.raises(DataRefused, match="rows was 140, is 149; 2026-01-03 is new"):
        check_fingerprint(fingerprint(write_examples(tmp_path / "b", PLACES)), fingerprint(more))


@pytest.mark.parametrize(
    ("places", "first_row", "message"),
    [
        ({("2026-01-02", "train"): [[41]]}, 100, "2026-01-02 had 40 rows, has 41"),
        ({("2026-01-02", "train"): [[40]]}, 900, "2026-01-02 has other rows"),
        ({("2026-01-02", "train"): [[39, 1]]}, 100, "2026-01-02 has its rows in other row groups"),
        ({("2026-01-02", "test"): [[40]], ("2026-01-02", "train"): []}, 0, "2026-01-02 is gone"),
    ],
)
def test_changed_rows_are_refused_naming_the_date(
    tmp_path: Path,
    stored: dict[str, Any],
    places: dict[tuple[str, str], list[list[int]]],
    first_row: int,
    message: str,
) -> None:
    now = write_examples(tmp_path, places, run="etl-new", first_row=first_row, token=2)

    with pytest.raises(DataRefused, match=message) as refused:
        check_fingerprint(stored, fingerprint(now))
    assert "2026-01-01" not in str(refused.value)


def test_other_settings_are_refused_naming_each(tmp_path: Path, stored: dict[str, Any]) -> None:
    now = fingerprint(Examples.open(f"{tmp_path}/clicks/examples"), seed=8, window_rows=5)

    with pytest.raises(DataRefused, match="seed was 7, is 8; window_rows was 65536, is 5"):
        check_fingerprint(stored, now)


def test_another_choice_of_partitions_is_refused(tmp_path: Path, stored: dict[str, Any]) -> None:
    examples = Examples.open(f"{tmp_path}/clicks/examples")
    one = fingerprint(examples, where={"ds": ["2026-01-02"]})

    check_fingerprint(one, fingerprint(examples, where={"ds": "2026-01-02"}))
    with pytest.raises(DataRefused, match=r"rows was 140, is 40; where was None, is .*2026-01-02"):
        check_fingerprint(stored, one)


def test_ranks_batches_and_memory_are_no_part_of_the_order(
    tmp_path: Path, stored: dict[str, Any]
) -> None:
    examples = Examples.open(f"{tmp_path}/clicks/examples")

    now = fingerprint(
        examples, batch_rows=80, size=3, rank=2, memory_mb=9, decode_threads=1, timeout_s=5
    )

    check_fingerprint(stored, now)


def test_many_changed_dates_are_counted_not_listed(tmp_path: Path) -> None:
    dates = {(f"2026-02-{day:02}", "train"): [[day]] for day in range(1, 10)}
    examples = write_examples(tmp_path, dates)

    with pytest.raises(DataRefused, match="2026-02-05 is gone; and 4 more dates"):
        check_fingerprint(fingerprint(examples), {**fingerprint(examples), "dates": {}})
