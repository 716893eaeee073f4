"""Encoding: a row alone is encoded as it is among others."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pyspark.sql import SparkSession

from jobs.etl.encode import encode
from jobs.etl.job import source_paths
from jobs.etl.states import state_entries
from jobs.etl.validate import checked_rows
from jobs.lake.state import load_state
from jobs.settings.load import load_settings
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
    entries = state_entries(spark, lake, load_state(lake, examples_of(raw).info["states"][DS]))
    for line in (lines[7], lines[-2], lines[-1]):
        alone = Raw(tmp_path / "alone").add([line]).write()
        settings = load_settings(alone.config, [])
        sources = source_paths(settings, VISITS)
        rows = checked_rows(spark, VISITS, sources, [DS], with_label=True)
        (encoded,) = encode(rows, VISITS, entries, as_of=None).drop("ds").collect()
        expected = batch.loc[encoded["visit"]]
        for name in encoded.asDict().keys() - {"visit"}:
            found, wanted = encoded[name], expected[name]
            assert found == wanted or (found is None and pd.isna(wanted)), (line, name)
