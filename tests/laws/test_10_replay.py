"""Law 10: running a stage again replaces exactly what it wrote; two at once: one refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.lake.lock import stage_lock
from jobs.main import main
from tests.builders.lakes import example_rows, examples_of, lake_of, quarantined, run_etl
from tests.builders.visits import Raw, rows_of

DATES = ["2024-01-01", "2024-01-02"]


@pytest.fixture
def raw(tmp_path: Path, spark: SparkSession) -> Raw:
    lines = [line for ds in DATES for line in rows_of(ds, 60)]
    raw = Raw(tmp_path).add([*lines, f"{DATES[0]},5,a,1,30,NA"]).write()
    run_etl(raw, spark, DATES)
    return raw


def test_a_replay_replaces_its_date_and_nothing_else(raw: Raw, spark: SparkSession) -> None:
    before, rows = examples_of(raw), example_rows(raw)
    run_etl(raw, spark, DATES[:1])
    after = examples_of(raw)
    assert example_rows(raw).equals(rows)
    assert after.info["states"] == before.info["states"]
    assert len(quarantined(raw)) == 1

    def paths(ds: str) -> tuple[set[str], set[str]]:
        return tuple({s.path for s in e.shards(first_ds=ds, last_ds=ds)} for e in (before, after))  # type: ignore[return-value]

    replaced, kept = paths(DATES[0]), paths(DATES[1])
    assert not replaced[0] & replaced[1]
    assert kept[0] == kept[1]


def test_a_replay_with_fewer_rows_leaves_none_of_the_old(raw: Raw, spark: SparkSession) -> None:
    other = Raw(raw.folder).add([*rows_of(DATES[0], 20), *rows_of(DATES[1], 60)]).write()
    run_etl(other, spark, DATES[:1])
    counts = example_rows(raw)["ds"].value_counts()
    assert counts.to_dict() == {DATES[0]: 20, DATES[1]: 60}
    assert quarantined(raw) == []


def test_two_at_once_one_works_and_one_exits_5(
    raw: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    version = examples_of(raw).version
    with stage_lock(lake_of(raw), "etl", "the-other-run"):
        code = main(["etl", "--config", str(raw.config), "--date", DATES[0], "--quiet"])
    assert code == 5
    assert "held by run the-other-run" in capsys.readouterr().err
    assert examples_of(raw).version == version
