"""Data of the stream's benchmark: wide rows, many small shards, and labels that drift by date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.lake.examples import Examples
from jobs.lake.tables import Table
from schemas.dataset import Column, Dataset, Source
from schemas.field import Categorical, Label, Numeric
from tests.builders.examples import write_examples

GROUPS_A_SHARD = 8
DATES = 60
_LARGEST_TABLE = 5.5  # decimal digits of its ids


def _dataset(name: str, numbers: int, ids: int) -> Dataset:
    fields = [Numeric(f"n{i}", "key") for i in range(numbers)]
    fields += [Categorical(f"c{i}", "key") for i in range(ids)]
    source = Source(name, columns=(Column("key", "bigint", nullable=False),))
    return Dataset(
        name=name,
        sources=(source,),
        rows=name,
        key=("key",),
        fields=(Label("label", "key"), *fields),
    )


# With the row id and the label, 40 columns.
WIDE = _dataset("wide", 13, 25)
COLUMNS = ["row_id", "label", *(f.name for f in WIDE.fields if f.name != "label")]
NARROW = _dataset("narrow", 1, 0)


def wide(root: Path, rows: int, group_rows: int) -> Examples:
    """Rows of 13 numbers, some missing, and 25 ids."""
    place = ("2026-01-01", "train")
    layout = {place: _shards_of(rows, group_rows)}
    return _once(root, WIDE, layout, lambda: {place: _wide_rows(rows)})


def small_shards(root: Path, shards: int, rows: int) -> Examples:
    """Many shards of a few rows each."""
    place = ("2026-01-01", "train")
    layout = {place: [[rows]] * shards}
    return _once(root, NARROW, layout, lambda: {place: _narrow_rows(np.zeros(shards * rows))})


def sorted_labels(root: Path, rows: int, group_rows: int) -> Examples:
    """One date whose raw rows were sorted by label; the ETL sorts by row id, a hash of the key."""
    place = ("2026-01-01", "train")
    labels = np.sort(np.random.default_rng(3).random(rows) < 0.25)
    mixed = labels[np.argsort(_hashes(np.arange(rows)))]
    layout = {place: _shards_of(rows, group_rows)}
    return _once(root, NARROW, layout, lambda: {place: _narrow_rows(mixed)})


def drifting_dates(root: Path, rows: int, group_rows: int) -> Examples:
    """60 dates, whose label rate goes from 5 % to 50 %."""
    random, of_date = np.random.default_rng(4), rows // DATES
    rates = np.linspace(0.05, 0.5, DATES)
    places = [(f"2026-{1 + d // 28:02}-{1 + d % 28:02}", "train") for d in range(DATES)]
    tables = {
        place: _narrow_rows(random.random(of_date) < rate, first=of_date * number)
        for number, (place, rate) in enumerate(zip(places, rates, strict=True))
    }
    return _once(
        root, NARROW, {place: _shards_of(of_date, group_rows) for place in places}, lambda: tables
    )


def _once(root: Path, dataset: Dataset, places: Any, tables: Any) -> Examples:
    table = Table(f"{root}/{dataset.name}/examples")
    if table.exists() and table.version() > 0:
        return Examples.open(table.url)
    return write_examples(root, places, dataset=dataset, tables=tables())


def _shards_of(rows: int, group_rows: int) -> list[list[int]]:
    """As the ETL lays out a date: equal row groups, the last one smaller."""
    groups = [min(group_rows, rows - at) for at in range(0, rows, group_rows)]
    return [groups[at : at + GROUPS_A_SHARD] for at in range(0, len(groups), GROUPS_A_SHARD)]


def _hashes(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's mixing step."""
    words = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return words ^ (words >> np.uint64(31))


def _wide_rows(rows: int) -> pa.Table:
    random = np.random.default_rng(1)
    columns: dict[str, pa.Array] = {
        "row_id": pa.array(np.sort(random.integers(-(2**63), 2**63 - 1, rows))),
        "key": pa.array(np.arange(rows)),
        "label": pa.array((random.random(rows) < 0.03).astype(np.float32)),
    }
    for i in range(13):
        counts = np.log1p(np.floor(random.exponential(3 * 2**i, rows))).astype(np.float32)
        columns[f"n{i}"] = pa.array(counts, mask=random.random(rows) < 0.04 * (i % 4))
    for i in range(25):
        table_rows = int(10 ** (1 + i * (_LARGEST_TABLE - 1) / 25))
        columns[f"c{i}"] = pa.array((2 + table_rows * random.random(rows) ** 3).astype(np.int32))
    return pa.table({c.name: columns[c.name] for c in WIDE.stored_columns()})


def _narrow_rows(labels: npt.NDArray[Any], first: int = 0) -> pa.Table:
    """Row ids count, so that a row's date and shard follow from them."""
    ids = np.arange(first, first + len(labels))
    label = labels.astype(np.float32)
    return pa.table(
        {"row_id": ids, "key": ids, "label": label, "n0": (ids % 1000).astype(np.float32)}
    )
