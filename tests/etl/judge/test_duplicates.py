"""Duplicates: of a key's rows the first stays, of identical lines all, however they are stored."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from jobs.etl import job
from jobs.etl.judge import duplicates, files
from jobs.etl.judge.counts import counts_of, merged
from jobs.etl.judge.duplicates import without_duplicates
from jobs.etl.judge.files import RowsWriter, ValidRows
from jobs.etl.judge.judging import JudgedRows
from jobs.etl.judge.tasks import REPEATED, rows_to_keep
from jobs.etl.raw import sources
from jobs.etl.raw.sources import RawSources
from jobs.lake.examples import Examples
from jobs.lake.ledger import new_run_id
from jobs.rows.judge import engine
from jobs.rows.judge.identity import Split, identities
from jobs.rows.read import pieces
from jobs.rows.read.pieces import read_rows
from jobs.settings.load import load_settings
from schemas.dataset import ROW_ID, Column, Dataset, Source
from schemas.field import Carried, Categorical, Label, Numeric
from tests.builders.lakes import example_rows, quarantined, run_etl
from tests.builders.lines import LINES, lines_of, write_lines
from tests.builders.photos import DAY, encoded, pixels, write_photos
from tests.builders.visits import VISITS, Raw, rows_of

DS = "2024-01-01"
SPLIT = Split(7, {"train": 0.8, "val": 0.1, "test": 0.1})


def judged_rows(
    spark: SparkSession, dataset: Dataset, paths: dict[str, str], folder: Path
) -> JudgedRows:
    """Rows as the tasks leave them, a file a piece."""
    raw = RawSources.listed(dataset, paths, [DS])
    judging = raw.engine(SPLIT, True, 64)
    url, held, found, hashes = str(folder), [], [], Counter[int]()
    for number, piece in enumerate(raw.pieces()):
        with RowsWriter(url, f"valid-{number}-{number + 7}.parquet") as writer:
            for table in read_rows([piece], dataset.row_source):
                judged = judging.judge(table)
                writer.add(rows_to_keep(judged, table, dataset))
                found.append(counts_of(judged))
                hashes.update(judged.valid[ROW_ID].to_pylist())
        held.append(writer.file(number))
    again = [hash_ for hash_, count in hashes.items() if count > 1]
    (folder / REPEATED).mkdir(parents=True, exist_ok=True)
    for part in range(3):
        hashes = pa.table({ROW_ID: pa.array(again[part::3], pa.int64())})
        pq.write_table(hashes, folder / REPEATED / f"part-{part}.parquet")
    valid = ValidRows(spark, url, tuple(file for file in held if file.rows))
    counts = merged(found)
    read = sum(one.raw for one in counts.values())
    return JudgedRows(valid, (), counts, {}, len(again), read, 0)


_PLAIN = pa.schema(
    [
        (ROW_ID, pa.int64()),
        ("visit", pa.int32()),
        ("raw", pa.string()),
        ("source_file", pa.string()),
        ("count_log", pa.float32()),
    ]
)


def rows_of_files(rows: JudgedRows, columns: Sequence[str]) -> list[dict[str, Any]]:
    schema = pa.schema([_PLAIN.field(name) for name in columns])
    found = rows.valid.in_arrow(columns, partial(_plain, schema), from_arrow_schema(schema))
    return list(pa.table(found.toArrow()).to_pylist())


def _plain(schema: pa.Schema, tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    for table in tables:
        yield from table.cast(schema).to_batches()


def several_rounds(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Few hashes at a time, and fewer in a part; with seed 0 all of them at once."""
    if seed:
        monkeypatch.setattr(duplicates, "_HASHES_AT_ONCE", 9)
        monkeypatch.setattr(duplicates, "_HASHES_PER_PART", 3)
        monkeypatch.setattr(duplicates, "_GROUP_ROWS", 4)


@pytest.mark.parametrize("seed", range(3))
def test_patches_are_right_over_files_and_row_groups(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Each key several times, the same lines and others, in row groups of some rows."""
    monkeypatch.setattr(files, "_GROUP_ROWS", 5)
    several_rounds(monkeypatch, seed)
    monkeypatch.setattr(sources, "_PIECE_BYTES", 900)
    monkeypatch.setattr(pieces, "_HEAD_BYTES", 60)
    chance = random.Random(seed)
    lines = rows_of(DS, 40)
    again = [line.replace(",18,", ",99,").replace(",0.0,", ",7.5,") for line in lines]
    every = [*lines, *lines, *again, *chance.choices(lines, k=60), *rows_of("2024-01-02", 5)]
    chance.shuffle(every)
    raw = Raw(tmp_path).add(every[:90]).write("a.csv")
    Raw(tmp_path).add(every[90:]).write("b.csv")
    paths = {"visits": f"{tmp_path}/[ab].csv", "shops": f"{tmp_path}/shops.csv"}

    judged = judged_rows(spark, VISITS, paths, tmp_path / "judged")
    once = without_duplicates(judged, VISITS)

    assert len(judged.valid.files) > 4
    assert max(len(file.row_group_rows) for file in judged.valid.files) > 1
    first: dict[int, tuple[str, str]] = {}
    for name, part in (("a", every[:90]), ("b", every[90:])):
        for line in part:
            if line.startswith(DS):
                place = (line, f"{raw.folder}/{name}.csv")
                key = int(line.split(",")[1])
                first[key] = min(first.get(key, place), place)
    found = rows_of_files(once, ["visit", "raw", "source_file"])
    assert len(found) == 40
    assert {row["visit"]: (row["raw"], row["source_file"]) for row in found} == first
    before, after = judged.counts[DS], once.counts[DS]
    assert before.valid == len(every) - 5
    assert (after.valid, after.reasons) == (40, {"duplicate_key": len(every) - 45})
    refused = [pq.read_table(f"{once.valid.url}/{file.path}") for file in once.refused]
    assert sum(table.num_rows for table in refused) == after.quarantined == len(every) - 45
    texts = Counter(text for table in refused for text in table["raw"].to_pylist())
    kept = Counter(text for text, _ in first.values())
    assert texts + kept == Counter(line for line in every if line.startswith(DS))


@pytest.mark.parametrize("seed", range(2))
def test_identical_lines_get_ids_of_their_own_over_files_and_row_groups(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(files, "_GROUP_ROWS", 4)
    several_rounds(monkeypatch, seed)
    monkeypatch.setattr(sources, "_PIECE_BYTES", 300)
    chance = random.Random(seed)
    ids = []
    for order in range(2):
        lines = [*lines_of(30), *lines_of(12), *lines_of(1) * 50]
        chance.shuffle(lines)
        write_lines(tmp_path / str(order), DS, [lines[:20], lines[20:]])
        paths = {"lines": f"{tmp_path}/{order}/day_{{ds}}"}
        rows = judged_rows(spark, LINES, paths, tmp_path / f"judged{order}")
        once = without_duplicates(rows, LINES)
        assert once.counts == rows.counts
        ids.append(sorted(row["row_id"] for row in rows_of_files(once, ["row_id"])))
    assert len(set(ids[0])) == 92
    assert ids[0] == ids[1]


def test_lines_whose_hashes_collide_have_the_same_ids_in_any_order(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def colliding(*columns: Any) -> Any:
        return identities(*columns) % 3

    monkeypatch.setattr(engine, "identities", colliding)
    monkeypatch.setattr(sources, "_PIECE_BYTES", 300)
    ids = []
    for order in range(2):
        lines = [*lines_of(30), *lines_of(12)][:: 1 - 2 * order]
        write_lines(tmp_path / str(order), DS, [lines])
        paths = {"lines": f"{tmp_path}/{order}/day_{{ds}}"}
        rows = judged_rows(spark, LINES, paths, tmp_path / f"judged{order}")
        assert rows.repeated == 3
        found = rows_of_files(without_duplicates(rows, LINES), ["row_id", "count_log"])
        ids.append(sorted((row["count_log"], row["row_id"]) for row in found))
    assert len({row_id for _, row_id in ids[0]}) == 42
    assert ids[0] == ids[1]


def test_every_key_twice_and_one_in_masses(spark: SparkSession, tmp_path: Path) -> None:
    lines = rows_of(DS, 60_000)
    other = [line[:-1] + str(1 - int(line[-1])) for line in lines]
    raw = Raw(tmp_path).add([*lines, *other, *lines[:1] * 100_000]).write()
    (tmp_path / "sound.csv").write_text(
        "\n".join(["day,visit,shop,amount,age,bought", *map(min, lines, other)]) + "\n"
    )
    result = run_etl(raw, spark, [DS], "etl.max_quarantined_fraction=1")
    counts = result.counts[DS]
    assert (counts.raw, counts.valid, counts.quarantined) == (220_000, 60_000, 160_000)
    assert counts.reasons == {"duplicate_key": 160_000}
    assert len(quarantined(raw)) == 160_000
    rows = example_rows(raw)
    # What is fitted is what stayed: as if the others had never been there.
    alone = Raw(tmp_path / "alone").write()
    alone.configure({"visits": str(tmp_path / "sound.csv")})
    run_etl(alone, spark, [DS])
    assert example_rows(alone).equals(rows)


def test_every_line_twice_and_one_in_masses_without_a_key(
    spark: SparkSession, tmp_path: Path
) -> None:
    lines = lines_of(30_000)
    settings = load_settings(write_lines(tmp_path, DS, [lines, [*lines, *lines[5:6] * 100_000]]))
    result = job.run(settings, spark, run_id=new_run_id("etl"), dates=[DS])
    assert (result.counts[DS].raw, result.counts[DS].valid) == (160_000, 160_000)
    examples = Examples.open(result.url)
    tables = [
        pq.read_table(f"{examples.url}/{s.path}", partitioning=None) for s in examples.shards()
    ]
    rows = pa.concat_tables(tables).to_pandas()
    assert rows["row_id"].is_unique
    assert rows["count_log"].value_counts().max() == 100_002


NAMES = ("ordinal", "malformed", "miscoded", "corrupt", "ds", "raw", "split", "file", "row")
NAMED = Dataset(
    "visits",
    (
        Source(
            "named",
            columns=(
                *(Column(name, "int") for name in NAMES),
                *(Column(name, "string") for name in ("reasons", "source_file", "new_id")),
                Column("row_id", "string"),
                Column("y", "int", of_label=True),
            ),
        ),
    ),
    "named",
    key=("file", "row", "ordinal"),
    fields=(
        Label("label", "y"),
        Numeric("malformed"),
        Numeric("miscoded"),
        Categorical("corrupt"),
        Numeric("of_ds", "ds"),
        Numeric("of_raw", "raw * 2"),
        Numeric("of_split", "split"),
        Carried("new_id"),
        Carried("of_reasons", "reasons"),
        Carried("of_row_id", "row_id || source_file"),
    ),
)


def test_columns_may_have_the_names_of_our_own(spark: SparkSession, tmp_path: Path) -> None:
    """With a raw column named `ordinal`, rows that repeat a key became examples."""
    lines = [
        f"{n},1,2,{n % 3},{n},{n},{n % 7},{n % 4},{n // 4},why{n},src{n},new{n},id{n},{n % 2}"
        for n in range(100)
    ]
    header = ",".join([*NAMES, "reasons", "source_file", "new_id", "row_id", "y"])
    again = [line.replace(",1,2,", ",3,4,") for line in lines[10:14]]
    (tmp_path / f"{DS}.csv").write_text("\n".join([header, *lines, *again]) + "\n")
    raw = Raw(tmp_path, declaration="tests.etl.judge.test_duplicates:NAMED")
    raw.configure({})
    tree = yaml.safe_load(raw.config.read_text())
    tree["etl"]["sources"] = {"named": "{ds}.csv"}
    raw.config.write_text(yaml.safe_dump(tree))
    counts = run_etl(raw, spark, [DS], "etl.max_quarantined_fraction=1").counts[DS]
    assert (counts.raw, counts.valid, counts.reasons) == (104, 100, {"duplicate_key": 4})
    rows = example_rows(raw).sort_values("of_ds", ignore_index=True)
    assert rows["ordinal"].tolist() == rows["of_ds"].tolist() == list(range(100))
    assert rows["of_raw"].tolist() == [2 * n for n in range(100)]
    assert rows["of_reasons"].tolist() == [f"why{n}" for n in range(100)]
    assert rows["of_row_id"].tolist() == [f"id{n}src{n}" for n in range(100)]
    assert set(rows["malformed"]) == {1.0}
    assert sorted(row["raw"] for row in quarantined(raw)) == sorted(again)


def test_a_key_named_file_is_told_apart_from_the_files(spark: SparkSession, tmp_path: Path) -> None:
    """The same name in two folders is one key, wherever tasks put the two rows."""
    names = [f"{number:03}.jpg" for number in range(20)]
    photos = {name: encoded(pixels(number)) for number, name in enumerate(names)}
    raw = write_photos(tmp_path, photos, {name: n % 3 for n, name in enumerate(names)})
    (tmp_path / "photos" / "more").mkdir()
    for name in names[3:6]:
        (tmp_path / "photos" / "more" / name).write_bytes(photos[name])
    counts = run_etl(raw, spark, [DAY]).counts[DAY]
    assert (counts.raw, counts.valid, counts.reasons) == (23, 20, {"duplicate_key": 3})
