"""Running the line on built raw files, and reading what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from jobs.etl import job
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.lake.ledger import new_run_id
from jobs.settings.load import load_settings
from schemas.dataset import ROW_ID
from tests.builders.visits import Raw


def run_etl(
    raw: Raw, spark: SparkSession, dates: Sequence[str], *overrides: str, rebuild: bool = False
) -> job.EtlResult:
    settings = load_settings(raw.config, overrides)
    return job.run(settings, spark, run_id=new_run_id("etl"), dates=dates, rebuild=rebuild)


def lake_of(raw: Raw) -> Lake:
    return Lake(str(raw.lake), "visits")


def examples_of(raw: Raw) -> Examples:
    return Examples.open(lake_of(raw).table("examples").url)


def shard_contents(raw: Raw) -> list[tuple[object, ...]]:
    """What the shards hold and where, without runs and paths."""
    shards = examples_of(raw).shards()
    return [(s.ds, s.split, s.number, s.row_group_rows, s.digest) for s in shards]


def example_rows(raw: Raw, ds: str | None = None) -> pd.DataFrame:
    """All example rows with their ds and split, in order of the row id."""
    examples = examples_of(raw)
    parts = []
    for shard in examples.shards(first_ds=ds, last_ds=ds):
        # A file object: given a path, Arrow adds the folders' names as columns.
        with Path(examples.url, shard.path).open("rb") as file:
            parts.append(pq.read_table(file).to_pandas().assign(ds=shard.ds, split=shard.split))
    return pd.concat(parts).sort_values(ROW_ID, ignore_index=True)


def quarantined(raw: Raw, stage: str = "etl") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lake_of(raw).table("quarantine").read_arrow().to_pylist()
    return [row for row in rows if row["stage"] == stage]


def column_chunk_bytes(path: str) -> list[bytes]:
    """The stored bytes of each column chunk of a Parquet file, in order."""
    with Path(path).open("rb") as file:
        footer = pq.read_metadata(file)
        chunks = []
        for group in range(footer.num_row_groups):
            for column in range(footer.num_columns):
                chunk = footer.row_group(group).column(column)
                file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
                chunks.append(file.read(chunk.total_compressed_size))
    return chunks
