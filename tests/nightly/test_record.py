"""The record of a night is kept whole, in any store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.lake.lake import Lake
from jobs.nightly.names import STEPS
from jobs.nightly.record import Record, StepRecord, dates_of, load, save
from tests.builders.nights import DATES

if TYPE_CHECKING:
    from tests.builders.s3 import S3

NIGHT = Record(
    DATES[1],
    run="nightly-1",
    ended_at="2024-01-03T01:00:00+00:00",
    caught_up=(DATES[0],),
    steps={
        **dict.fromkeys(STEPS, StepRecord("done")),
        "etl": StepRecord(
            "done", ("etl-1", "etl-2"), {"code": "1f"}, "2024", 1.5, 0, "ok", {"n": [1]}
        ),
    },
)


def assert_kept(lake: Lake) -> None:
    assert dates_of(lake) == []
    assert load(lake, DATES[1]) == Record(DATES[1])
    save(lake, Record(DATES[1]))
    again = NIGHT.reopened("gate")
    save(lake, again)
    assert load(lake, DATES[1]) == again and again.stands == NIGHT
    save(lake, NIGHT)
    save(lake, Record(DATES[0]))
    assert load(lake, DATES[1]) == NIGHT
    assert dates_of(lake) == DATES[:2]


def test_a_record_on_a_file_system(tmp_path: Path) -> None:
    assert_kept(Lake(str(tmp_path), "visits"))
    assert sorted(path.name for path in (tmp_path / "visits" / "nights").iterdir()) == [
        f"{ds}.json" for ds in DATES[:2]
    ]


def test_a_record_on_s3(s3: S3) -> None:
    assert_kept(Lake(s3.url("nights"), "visits"))
