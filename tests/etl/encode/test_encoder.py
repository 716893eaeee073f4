"""Encoding: a row's ids are those of the entries of its date, whatever rows stand beside it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession

from jobs.etl import job
from jobs.etl.fit.entries import ENTRIES, ID_LOG, stage_entries
from jobs.etl.fit.states import state_entries
from jobs.etl.raw.sources import source_paths
from jobs.lake.state import load_state
from jobs.settings.load import load_settings
from schemas.dataset import struct_type
from schemas.field import FIRST_OOV_ID, NULL_ID
from tests.builders.fitting import entries_of
from tests.builders.judged import encoded, judged
from tests.builders.lakes import example_rows, examples_of, lake_of, run_etl
from tests.builders.visits import VISITS, Raw, rows_of

DS = "2024-01-01"


def test_a_row_alone_is_encoded_as_in_its_batch(tmp_path: Path, spark: SparkSession) -> None:
    # A shop seen once has no entry; one row has no amount.
    lines = [*rows_of(DS, 60), f"{DS},900001,rare,NA,30,1", f"{DS},900002,NA,1.5,NA,0"]
    raw = Raw(tmp_path / "all").add(lines).write()
    run_etl(raw, spark, [DS])
    batch = example_rows(raw).set_index("visit")
    lake = lake_of(raw)
    entries = state_entries(lake, load_state(lake, examples_of(raw).info["states"][DS]))
    for line in (lines[7], lines[-2], lines[-1]):
        alone = Raw(tmp_path / "alone").add([line]).write()
        sources = source_paths(load_settings(alone.config, []), VISITS)
        found = encoded(VISITS, judged(VISITS, sources, [DS]).valid, entries, alone.folder)
        (row,) = found.drop_columns(["ds"]).to_pylist()
        expected = batch.loc[row["visit"]]
        for name in row.keys() - {"visit"}:
            wanted = expected[name]
            assert row[name] == wanted or (row[name] is None and pd.isna(wanted)), (line, name)


def test_each_row_knows_the_entries_of_its_date_alone(tmp_path: Path) -> None:
    """In a table of several dates, in any order, as in tables of one date each."""
    dates = [f"2024-01-0{n}" for n in range(1, 5)]
    raw = Raw(tmp_path).add(line for ds in dates for line in rows_of(ds, 20)).write()
    entries = entries_of(
        [("shop_id", shop, 5 + n, dates[n]) for n, shop in enumerate("bca")]
        + [("age_group", "2", 3, dates[1])]
    )
    paths = {"visits": str(tmp_path / "visits.csv"), "shops": str(tmp_path / "shops.csv")}
    valid = judged(VISITS, paths, dates).valid
    order = random.Random(1).sample(range(valid.num_rows), valid.num_rows)
    together = encoded(VISITS, valid.take(order), entries, tmp_path / "all")
    found = {row["visit"]: row for row in together.to_pylist()}
    assert len(found) == len(raw.lines)
    for ds in dates:
        own = judged(VISITS, paths, [ds]).valid
        apart = encoded(VISITS, own, entries, tmp_path / ds, as_of=ds).to_pylist()
        assert apart == [found[row["visit"]] for row in apart]
        for row in apart:
            known = {"b": dates[0], "c": dates[1], "a": dates[2]}.get(row["shop"], "never") <= ds
            assert (row["shop_id"] >= 5) == known
            assert known or FIRST_OOV_ID <= row["shop_id"] < FIRST_OOV_ID + 3


def test_plain_texts_and_dictionaries_nulls_and_no_rows_are_encoded_alike(tmp_path: Path) -> None:
    Raw(tmp_path).add([*rows_of(DS, 9), f"{DS},7,NA,1.5,NA,0"]).write()
    paths = {"visits": str(tmp_path / "visits.csv"), "shops": str(tmp_path / "shops.csv")}
    valid = judged(VISITS, paths, [DS]).valid
    entries = entries_of([("shop_id", "a", 5, DS)])
    place = valid.column_names.index("shop_id")
    texts = valid["shop_id"].cast(pa.string())
    plain = valid.set_column(place, "shop_id", texts)
    coded = valid.set_column(place, "shop_id", texts.dictionary_encode())
    apart = pa.concat_tables([coded.slice(0, 4), coded.slice(4)])
    found = [
        encoded(VISITS, rows, entries, tmp_path / str(n))
        for n, rows in enumerate((plain, coded, apart))
    ]
    assert found[0].equals(found[1]) and found[0].equals(found[2].combine_chunks())
    assert found[0]["shop_id"].to_pylist()[-1] == NULL_ID
    assert encoded(VISITS, valid.slice(0, 0), entries, tmp_path / "none").num_rows == 0


def test_the_log_is_that_of_the_pass_whatever_others_commit_meanwhile(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = Raw(tmp_path / "alone").add(rows_of(DS, 60)).write()
    run_etl(raw, spark, [DS])
    other = Raw(tmp_path / "other").add(rows_of(DS, 60)).write()
    whole = job.Pass._stage_examples

    def meanwhile(one: job.Pass, *rest: Any) -> Any:
        log = one.lake.table("id_log")
        held = log.read_arrow()
        again = held.set_column(2, "id", pc.add(held["id"], 1_000).cast(pa.int32()))
        files = stage_entries(again.select(ENTRIES.names), log, "elsewhere")
        info = {"run": "elsewhere"}
        log.replace(
            files, struct_type(ID_LOG), ["run"], {"run": ["elsewhere"]}, info, "etl", one.lock.token
        )
        return whole(one, *rest)

    monkeypatch.setattr(job.Pass, "_stage_examples", meanwhile)
    run_etl(other, spark, [DS])
    assert example_rows(other).equals(example_rows(raw))
    state = load_state(lake_of(other), examples_of(other).info["states"][DS])
    assert state_entries(lake_of(other), state).num_rows == sum(
        vocabulary.entries for vocabulary in state.vocabulary.values()
    )
