"""Erase: an entity's rows leave every table, counted; all others stay as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.base.errors import ConfigError
from jobs.etl.write.quarantine import QUARANTINE
from jobs.evaluate.predict.predictions import predictions_schema
from jobs.lake.lake import Lake, TableName
from jobs.lake.ledger import read_ledger, record_committed
from jobs.main import main
from jobs.operations import erase as erasure
from jobs.operations import layout
from jobs.operations.keys import Keys, parse_keys
from jobs.operations.raw_keys import marked_raw
from tests.builders.lakes import example_rows, examples_of, lake_of, quarantined, run_etl
from tests.builders.photos import PHOTOS
from tests.builders.visits import VISITS, Raw
from tests.operations.conftest import DATES

GONE, OTHER = 240101003, 240102007
# By their columns: the first is the entity's, of the second only another column's value is.
REFUSED = (
    (DATES[0], ["above_max:age"], f"{DATES[0]},{GONE},a,1.0,130,1"),
    (DATES[0], ["above_max:age"], f"{DATES[0]},5,a,{GONE},130,1"),
    (DATES[1], ["malformed"], f"{DATES[1]},5,a,1.0,30,1,surplus,{GONE}"),
    (DATES[1], ["malformed"], f"{DATES[1]},5,a,1.0,30,1,surplus,{GONE}0"),
)


@pytest.fixture
def scored(raw: Raw, spark: SparkSession) -> Raw:
    """With predictions of two dates, and lines of the entity in the scoring's quarantine."""
    lake, schema = lake_of(raw), predictions_schema(VISITS)
    examples = lake.table("examples").spark(spark, VISITS.examples_schema())
    added = {"score": F.lit(0.5).cast("float"), "model_version": F.lit("1"), "run_id": F.lit("s")}
    rows = examples.where(F.col("ds") != DATES[2]).withColumns(added).select(schema.names)
    table = lake.table("predictions")
    files = table.stage(rows.repartition("ds"), "score-1", ["ds"])
    table.replace(files, schema, ["ds"], {"ds": DATES[:2]}, {"run": "score-1"}, "score", 1)
    refused = spark.createDataFrame(
        [(reasons, line, "f", "score-1", "score", ds) for ds, reasons, line in REFUSED], QUARANTINE
    )
    files = lake.table("quarantine").stage(refused, "score-1", ["stage", "ds"])
    where = {"stage": ["score"], "ds": DATES}
    lake.table("quarantine").rewrite(files, where, {"run": "score-1"}, "score", 1)
    return raw


def erase(raw: Raw, *more: str) -> int:
    return main(["erase", "--config", str(raw.config), "--quiet", *more])


ERASED = {
    (DATES[0], "predictions"): 1,
    (DATES[0], "quarantine"): 1,
    (DATES[0], "examples"): 1,
    (DATES[1], "quarantine"): 1,
}


TABLES = ("predictions", "quarantine", "examples")


def erase_killed_after(raw: Raw, commit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a table's commit, before the ledger knows of it."""

    def dies(lake: Lake, name: TableName, *arguments: Any) -> None:
        if name == TABLES[commit - 1]:
            raise KeyboardInterrupt
        record_committed(lake, name, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(erasure, "record_committed", dies)
        patched.setattr(layout, "record_committed", dies)
        assert erase(raw, "--key", f"visit={GONE}") == 130


def erased_by_ledger(raw: Raw) -> dict[tuple[str, str], int]:
    """Rows by date and table."""
    rows = read_ledger(lake_of(raw), stage="erase")
    found = [((row["ds"], name), n) for row in rows for name, n in row["counts"].items()]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_an_entitys_rows_leave_all_tables_and_no_others_do(
    scored: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    before, info = example_rows(scored), examples_of(scored).info
    predictions = lake_of(scored).table("predictions").read_arrow().to_pandas()
    etl_refused = quarantined(scored)
    assert erase(scored, "--key", f"visit={GONE}") == 0
    said = capsys.readouterr().out
    assert "1 keys matched rows: predictions 1, quarantine 2, examples 1" in said
    assert "vacuum --older-than 0" in said

    expected = before[before["visit"] != GONE].reset_index(drop=True)
    assert example_rows(scored).equals(expected)
    after = lake_of(scored).table("predictions").read_arrow().to_pandas()
    assert set(predictions["visit"]) - set(after["visit"]) == {GONE}
    assert len(after) == len(predictions) - 1
    assert quarantined(scored) == etl_refused
    left = {row["raw"] for row in quarantined(scored, "score")}
    assert left == {REFUSED[1][2], REFUSED[3][2]}
    own = {"run": "", "ledger": []}
    assert examples_of(scored).info | own == info | own
    assert erased_by_ledger(scored) == ERASED
    assert str(GONE) not in str(read_ledger(lake_of(scored), stage="erase"))

    version = examples_of(scored).version
    assert erase(scored, "--key", f"visit={GONE}") == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert examples_of(scored).version == version


@pytest.mark.parametrize("commit", [1, 2, 3])
def test_what_a_killed_erasure_took_is_in_the_ledger(
    scored: Raw, commit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    erase_killed_after(scored, commit, monkeypatch)
    assert len(erased_by_ledger(scored)) < len(ERASED)
    assert erase(scored, "--key", f"visit={GONE}") == 0
    assert erased_by_ledger(scored) == ERASED


@pytest.mark.parametrize("commit", [2, 3])
def test_the_next_etl_tells_what_a_killed_erasure_took(
    scored: Raw, spark: SparkSession, commit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    erase_killed_after(scored, commit, monkeypatch)
    run_etl(scored, spark, [DATES[2]])
    told = erased_by_ledger(scored)
    assert told == {of: ERASED[of] for of in told}
    assert {table for _, table in told} == set(TABLES[:commit])


def test_keys_of_a_file_with_several_columns_match_together(scored: Raw, tmp_path: Path) -> None:
    before = example_rows(scored)
    other = before.set_index("visit").loc[OTHER, "shop"]
    wrong = "b" if other != "b" else "c"
    file = tmp_path / "keys.csv"
    file.write_text(f"visit,shop\n{OTHER},{other}\n{GONE},nowhere\n{OTHER + 1},{wrong}\n")
    matching = before[(before["visit"] == OTHER + 1) & (before["shop"] == wrong)]
    assert erase(scored, "--keys", str(file), "--key", "shop=d", f"visit={GONE + 4}") == 0
    gone = set(before["visit"]) - set(example_rows(scored)["visit"])
    fourth = before[(before["visit"] == GONE + 4) & (before["shop"] == "d")]
    assert gone == {OTHER, *matching["visit"], *fourth["visit"]}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("amount=1.0", "column amount is not kept in the examples"),
        ("visit=many", "a value of key column 'visit' is no int"),
        ("visit", "--key COLUMN=VALUE"),
        ("visit=1 visit=2", "--key names a column twice: visit, visit"),
    ],
)
def test_a_key_that_cannot_be_is_a_usage_error(
    raw: Raw, key: str, message: str, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    version = examples_of(raw).version
    assert erase(raw, "--key", *key.split()) == 2
    assert message in capsys.readouterr().err
    assert examples_of(raw).version == version


@pytest.mark.parametrize("line", ["7", "7,Smith, John", "7,a,"])
def test_a_line_of_keys_with_another_number_of_values_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(f"visit,shop\n5,a\n\n{line}\n")
    with pytest.raises(ConfigError, match=r"line 4 has \d values"):
        parse_keys(VISITS, [], str(file))


TORN = (
    (["malformed"], f"{DATES[0]},1,{{3f25-11}},1.0,30,1,surplus"),
    (["malformed"], f"{DATES[0]},2,#42,1.0,30,1,surplus"),
    (["malformed"], f"{DATES[0]},3,Müller,1.0,30,1,surplus"),
    (["encoding"], rf"{DATES[0]},4,M\xc3\xbcller,\xff,30,1"),
    (["malformed"], r'{"day": "2024-01-01", "shop": "M\u00FCller"'),
    (["malformed"], f"{DATES[0]},5,***,1.0,30,1,surplus"),
    (["unparsable:age"], f"{DATES[0]},6,#42,1.0,x,1"),
)


@pytest.mark.parametrize(
    ("shop", "hits"),
    [("{3f25-11}", [0]), ("#42", [1, 6]), ("Müller", [2, 3, 4]), ("***", [5]), ("", []), ("!", [])],
)
def test_torn_lines_are_found_by_values_of_any_signs(
    spark: SparkSession, shop: str, hits: list[int]
) -> None:
    lines = [(*line, "f", "r", "etl", DATES[0]) for line in TORN]
    rows = spark.createDataFrame(lines, QUARANTINE)
    marked = marked_raw(rows, VISITS, Keys(({"shop": shop},))).where("__hit").collect()
    assert {row["raw"] for row in marked} == {TORN[number][1] for number in hits}


@pytest.mark.parametrize(
    ("kind", "hit", "left"),
    [
        ("csv", ["x,7,a,1,1,1", '"x","7",a,1,1,1', "torn,7"], ["x,70,a,7,1,1", "torn,70"]),
        ("json", ['{"visit": 7}', '{"visit": "7", "age": "?"}', '{"visit": 7'], ['{"age": 7}']),
        ("parquet", ['{"visit":7}', '{"visit":"7"}'], ['{"visit":70,"age":7}', '{"visit":null}']),
    ],
)
def test_quarantined_rows_of_all_formats_are_found(
    spark: SparkSession, kind: Literal["csv", "json", "parquet"], hit: list[str], left: list[str]
) -> None:
    source = dataclasses.replace(VISITS.row_source, format=kind)
    dataset = dataclasses.replace(VISITS, sources=(source, *VISITS.sources[1:]))
    texts = [([], line, "f", "r", "etl", DATES[0]) for line in [*hit, *left]]
    rows = spark.createDataFrame(texts, QUARANTINE)
    marked = marked_raw(rows, dataset, parse_keys(dataset, [["visit=7"]], None)).collect()
    assert sorted(row["raw"] for row in marked if row["__hit"]) == sorted(hit)
    assert len(marked) == len(texts)


def test_a_quarantined_image_is_found_by_its_file(spark: SparkSession) -> None:
    files = ["/raw/photos/a/7.jpg", "/raw/photos/7.jpg/8.jpg", "/raw/photos/a/77.jpg"]
    lines = [(["image:photo"], "sha256:7.jpg", file, "r", "etl", DATES[0]) for file in files]
    rows = spark.createDataFrame(lines, QUARANTINE)
    marked = marked_raw(rows, PHOTOS, parse_keys(PHOTOS, [["file=7.jpg"]], None)).collect()
    assert [row["source_file"] for row in marked if row["__hit"]] == files[:1]
    assert len(marked) == len(files)


def test_a_value_that_lay_inside_another_is_found_by_its_declared_name(
    spark: SparkSession,
) -> None:
    source = VISITS.row_source
    visit = dataclasses.replace(source.columns[1], path="about.visit")
    columns = tuple(visit if column.name == "visit" else column for column in source.columns)
    source = dataclasses.replace(source, format="parquet", columns=columns)
    dataset = dataclasses.replace(VISITS, sources=(source, *VISITS.sources[1:]))
    texts = ['{"visit":7}', '{"about":{"visit":7}}']
    lines = [(["null:day"], text, "f", "r", "etl", DATES[0]) for text in texts]
    rows = spark.createDataFrame(lines, QUARANTINE)
    marked = marked_raw(rows, dataset, parse_keys(dataset, [["visit=7"]], None)).collect()
    assert [row["raw"] for row in marked if row["__hit"]] == texts[:1]
