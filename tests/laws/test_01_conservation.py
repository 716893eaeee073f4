"""Law 1: raw rows = examples + quarantined, for every ds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.etl.judge.counts import DateCounts
from jobs.etl.write import quarantine, undated
from jobs.etl.write.accounts import assert_conserved
from jobs.lake.manifest import Shard
from tests.builders.lakes import example_rows, lake_of, quarantined, run_etl
from tests.builders.poison import DAY, write_poison
from tests.builders.visits import POISON, Raw, rows_of

DATES = ["2024-01-01", "2024-01-02", "2024-01-03"]


def test_every_raw_line_is_an_example_or_in_quarantine(tmp_path: Path, spark: SparkSession) -> None:
    raw = Raw(tmp_path)
    raw.add(line for line, _ in POISON)
    for day, ds in enumerate(DATES):
        raw.add(rows_of(ds, 40 + 7 * day))
    raw.add([rows_of(DATES[1], 1)[0], rows_of(DATES[1], 1)[0]])
    raw.write()
    run_etl(raw, spark, DATES, "etl.max_quarantined_fraction=1")

    lines = Counter(line.split(",")[0] for line in raw.lines)
    examples = Counter(example_rows(raw)["ds"])
    refused = quarantined(raw)
    by_ds = Counter(row["ds"] for row in refused)
    for ds in DATES:
        assert lines[ds] == examples[ds] + by_ds[ds]
    assert by_ds["undated"] == lines["yesterday"] == 1
    # Every line that is no example stands in quarantine with its text, as often as it came.
    assert not Counter(row["raw"] for row in refused) - Counter(raw.lines)
    assert len(raw.lines) == sum(examples.values()) + len(refused)


@pytest.mark.parametrize(
    "format_",
    ["csv", *(pytest.param(f, marks=pytest.mark.slow) for f in ("json", "parquet", "orc"))],
)
def test_each_defect_is_counted_exactly(format_: str, tmp_path: Path, spark: SparkSession) -> None:
    expected = write_poison(tmp_path / f"poison.{format_}", format_)
    raw = Raw(tmp_path, declaration=f"tests.builders.poison:POISON_{format_.upper()}").write()
    raw.configure({"visits": f"poison.{format_}"})
    run_etl(raw, spark, [DAY], "etl.max_quarantined_fraction=1")
    refused = quarantined(raw)
    assert Counter(tuple(sorted(row["reasons"])) for row in refused) == expected - Counter({(): 40})
    assert len(example_rows(raw)) == expected[()]
    assert {row["source_file"] for row in refused} == {f"{tmp_path}/poison.{format_}"}
    assert all(row["raw"] for row in refused)
    if format_ in ("csv", "json"):
        lines = Counter((tmp_path / f"poison.{format_}").read_bytes().splitlines())
        kept = [row["raw"] for row in refused if "encoding" not in row["reasons"]]
        escaped = [row["raw"] for row in refused if "encoding" in row["reasons"]]
        assert not Counter(text.encode() for text in kept) - lines
        assert not Counter(map(unescaped, escaped)) - lines


def unescaped(text: str) -> bytes:
    """The bytes of a line that is no UTF-8; a JSON escape of half a character needs none."""
    if text.isascii() and "\\ud800" in text:
        return text.encode()
    return text.encode().decode("unicode_escape").encode("latin-1")


@pytest.mark.slow
@pytest.mark.parametrize("driver_rows", [200_000, 0])
def test_undated_rows_of_other_files_stay(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, driver_rows: int
) -> None:
    for module in (quarantine, undated):
        monkeypatch.setattr(module, "_DRIVER_ROWS", driver_rows)
    raw = Raw(tmp_path).add([*rows_of(DATES[0], 30), "never,1,a,1.0,30,1"]).write()
    run_etl(raw, spark, DATES[:1])
    other = Raw(tmp_path).add([*rows_of(DATES[1], 30), "later,2,a,1.0,30,1"]).write("more.csv")
    run_etl(other, spark, DATES[1:2])
    run_etl(other, spark, DATES[1:2])
    found = sorted(row["raw"] for row in quarantined(raw) if row["ds"] == "undated")
    assert found == ["later,2,a,1.0,30,1", "never,1,a,1.0,30,1"]


def test_a_lost_row_stops_the_run() -> None:
    shard = Shard(DATES[0], "train", 0, "run=r/x.parquet", 1, (6,), 0, 0)
    counts = DateCounts(raw=10, splits={"train": 7}, quarantined=3, reasons={"malformed": 3})
    with pytest.raises(AssertionError, match="10 raw rows, but 6 in examples and 3 in quarantine"):
        assert_conserved({DATES[0]: counts}, [shard], {DATES[0]: 3})


def test_the_ledger_tells_the_counts(tmp_path: Path, spark: SparkSession) -> None:
    from jobs.lake.ledger import read_ledger

    raw = Raw(tmp_path).add(rows_of(DATES[0], 50)).write()
    run_etl(raw, spark, DATES[:1])
    (row,) = read_ledger(lake_of(raw), stage="etl")
    counts = row["counts"]
    assert counts["raw"] == 50
    assert sum(counts[split] for split in ("train", "val", "test")) == 50 - counts["quarantined"]
