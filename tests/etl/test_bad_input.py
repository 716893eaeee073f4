"""Bad input gets a clear error and loses nothing: message, exit code, counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.etl.raw.sources import RawSources
from jobs.lake.ledger import read_ledger
from jobs.main import main
from jobs.rows.read.pieces import Piece
from tests.builders.lakes import example_rows, examples_of, lake_of, quarantined, run_etl
from tests.builders.visits import HEADER, POISON, Raw, rows_of

DS = "2024-01-01"


def etl(raw: Raw, *more: str) -> int:
    return main(["etl", "--config", str(raw.config), "--quiet", *(more or ("--date", DS))])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    """A lake with one good date, which no bad input may change."""
    raw = Raw(tmp_path_factory.mktemp("sound")).add(rows_of(DS, 60)).write()
    run_etl(raw, spark, [DS])
    return raw


def unchanged(raw: Raw, version: int) -> None:
    assert examples_of(raw).version == version
    assert len(example_rows(raw)) == 60


def test_poison_rows_are_quarantined_each_with_all_its_reasons(
    tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = Raw(tmp_path).add(line for line, _ in POISON).write()
    assert etl(raw, "--date", DS, "--set", "etl.max_quarantined_fraction=1") == 0
    found = {row["raw"]: tuple(sorted(row["reasons"])) for row in quarantined(raw)}
    assert found == {line: reasons for line, reasons in POISON if reasons}
    assert "13 rows" in capsys.readouterr().out
    rows = read_ledger(lake_of(raw), stage="etl")
    counts = Counter[str]()
    for row in rows:
        counts.update(row["counts"])
    assert counts["raw"] == len(POISON)
    assert counts["quarantined"] == sum(bool(reasons) for _, reasons in POISON)
    assert counts["label_absent"] == 1
    assert {row["ds"] for row in rows} == {DS, "undated"}
    assert all(row["source_file"].endswith("visits.csv") for row in quarantined(raw))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([f"{DS},900{i},a,1.0,30,1,surplus" for i in range(9)], "malformed"),
        ([f"{DS},900{i},a,many,30,1" for i in range(9)], "unparsable:amount"),
        ([*rows_of(DS, 9)], "duplicate_key"),
    ],
)
def test_too_many_refused_rows_refuse_the_date(
    sound: Raw, lines: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    version = examples_of(sound).version
    text = (sound.folder / "visits.csv").read_text()
    (sound.folder / "bad.csv").write_text(text + "\n".join(lines) + "\n")
    path = sound.folder / "bad.csv"
    assert etl(sound, "--date", DS, "--set", f"etl.sources.visits={path}") == 3
    error = capsys.readouterr().err
    assert f"{DS}: 9 of 69 rows (13.0%) are refused" in error
    assert f"9  {reason}" in error
    assert "max_quarantined_fraction" in error
    unchanged(sound, version)
    assert read_ledger(lake_of(sound), status="refused")[-1]["ds"] == DS


def test_a_truncated_gzip_is_refused_by_name(
    sound: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = examples_of(sound).version
    torn = Raw(tmp_path).add(rows_of(DS, 5000)).truncated_gzip()
    path = torn.folder / "visits.csv.gz"
    assert etl(sound, "--date", DS, "--set", f"etl.sources.visits={path}") == 3
    error = capsys.readouterr().err
    assert "visits.csv.gz cannot be read" in error
    assert "Truncated compressed stream" in error
    unchanged(sound, version)


def test_a_file_that_changes_after_it_was_listed_is_refused_by_name(
    sound: Raw, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = examples_of(sound).version
    path = sound.folder / "growing.csv"
    path.write_text((sound.folder / "visits.csv").read_text())
    whole = RawSources.pieces

    def pieces(raw: RawSources) -> list[Piece]:
        found = whole(raw)
        with path.open("a") as file:
            file.write(f"{rows_of(DS, 61)[-1]}\n")
        return found

    monkeypatch.setattr(RawSources, "pieces", pieces)
    assert etl(sound, "--date", DS, "--set", f"etl.sources.visits={path}") == 3
    assert f"{path} changed while it was read" in capsys.readouterr().err
    unchanged(sound, version)


def test_an_empty_file_beside_a_good_one_is_said_to_be_empty(
    sound: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    version = examples_of(sound).version
    (sound.folder / "two").mkdir()
    (sound.folder / "two" / "a.csv").write_text((sound.folder / "visits.csv").read_text())
    (sound.folder / "two" / "b.csv").write_bytes(b"")
    path = sound.folder / "two"
    assert etl(sound, "--date", DS, "--set", f"etl.sources.visits={path}") == 3
    assert f"{path}/b.csv is empty" in capsys.readouterr().err
    unchanged(sound, version)


def test_a_missing_column_is_named(sound: Raw, capsys: pytest.CaptureFixture[str]) -> None:
    version = examples_of(sound).version
    header = HEADER.replace(",age", "")
    (sound.folder / "short.csv").write_text(f"{header}\n{DS},1,a,1.0,1\n")
    path = sound.folder / "short.csv"
    assert etl(sound, "--date", DS, "--set", f"etl.sources.visits={path}") == 3
    error = capsys.readouterr().err
    assert "short.csv" in error
    assert "missing age" in error
    assert HEADER in error
    unchanged(sound, version)


def test_an_empty_date_is_refused(sound: Raw, capsys: pytest.CaptureFixture[str]) -> None:
    version = examples_of(sound).version
    assert etl(sound, "--date", "2024-02-02") == 3
    assert "no rows for 2024-02-02" in capsys.readouterr().err
    unchanged(sound, version)


def test_an_absent_file_is_not_an_empty_one(sound: Raw, capsys: pytest.CaptureFixture[str]) -> None:
    version = examples_of(sound).version
    assert etl(sound, "--date", DS, "--set", "etl.sources.visits=nowhere/*.csv") == 3
    assert "no raw file matches" in capsys.readouterr().err
    unchanged(sound, version)


def test_a_repeated_parent_key_is_refused(sound: Raw, capsys: pytest.CaptureFixture[str]) -> None:
    version = examples_of(sound).version
    (sound.folder / "twice.csv").write_text("shop,size\na,1\na,2\nb,3\n")
    path = sound.folder / "twice.csv"
    assert etl(sound, "--date", DS, "--set", f"etl.sources.shops={path}") == 3
    error = capsys.readouterr().err
    assert "source 'shops': 1 keys (shop)" in error
    assert "(a)" in error
    unchanged(sound, version)


def test_an_unknown_key_names_the_nearest(sound: Raw, capsys: pytest.CaptureFixture[str]) -> None:
    assert etl(sound, "--date", DS, "--set", "etl.shard_row=5") == 2
    assert "unknown setting 'etl.shard_row'; did you mean 'shard_rows'?" in capsys.readouterr().err


@pytest.mark.parametrize("date", ["2024-13-01", "yesterday", "2024-1-1"])
def test_a_wrong_date_is_a_usage_error(
    sound: Raw, date: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert etl(sound, "--date", date) == 2
    assert f"{date!r} is no date YYYY-MM-DD" in capsys.readouterr().err
