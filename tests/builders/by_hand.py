"""What is to become of raw rows, worked out in plain Python, and whether a lake holds it.

None of the ETL's code is used, but its readers of what was committed. The hash that splits rows is
Spark's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.etl.job import EtlResult
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from schemas.dataset import Dataset


@dataclass
class Row:
    """What is to become of a line: refused for the reasons, or stored with the values."""

    line: str
    ds: str
    reasons: list[str] = field(default_factory=list)
    key: tuple[Any, ...] = ()
    numbers: dict[str, float | None] = field(default_factory=dict)
    texts: dict[str, str | None] = field(default_factory=dict)
    label: float | None = None
    split: str = ""


def refuse_duplicates(rows: Iterable[Row]) -> None:
    """All lines are of one file: the first by text stays."""
    seen: set[tuple[Any, ...]] = set()
    for row in sorted((row for row in rows if not row.reasons), key=lambda row: row.line.encode()):
        if (row.ds, row.key) in seen:
            row.reasons = ["duplicate_key"]
        seen.add((row.ds, row.key))


def place(spark: SparkSession, rows: Sequence[Row], types: Sequence[str]) -> None:
    """Splits: thousandths of thousandths of a hash of the key, or of the line, with the seed 7."""
    keys = [row.key or (row.line,) for row in rows]
    names = [f"k{n}" for n in range(len(types))]
    schema = ", ".join(f"{name} {kind}" for name, kind in zip(names, types, strict=True))
    hashed = F.pmod(F.xxhash64(F.lit(7), *names), F.lit(1_000_000))
    for row, found in zip(
        rows, spark.createDataFrame(keys, schema).select(hashed).collect(), strict=True
    ):
        row.split = "train" if found[0] < 800_000 else "val" if found[0] < 900_000 else "test"


def vocabularies(dataset: Dataset, rows: Sequence[Row]) -> dict[str, dict[str, tuple[int, str]]]:
    """By field, the id of each value and the date from which it has it."""
    logs: dict[str, dict[str, tuple[int, str]]] = {}
    for f in dataset.counted:
        entries, seen = logs.setdefault(f.name, {}), Counter[str]()
        for ds in sorted({row.ds for row in rows}):
            train = [row.texts.get(f.name) for row in rows if (row.ds, row.split) == (ds, "train")]
            seen.update(text for text in train if text is not None)
            new = [text for text, n in seen.items() if n >= f.min_count and text not in entries]
            for text in sorted(new, key=lambda text: (-seen[text], text.encode())):
                entries[text] = (2 + f.oov_buckets + len(entries), ds)
    return logs


def check(dataset: Dataset, result: EtlResult, lake: Lake, rows: Sequence[Row]) -> None:
    """The tables hold what the rows say, row by row."""
    refused = lake.table("quarantine").read_arrow().to_pylist()
    found = Counter((row["ds"], row["raw"], *sorted(row["reasons"])) for row in refused)
    assert found == Counter((row.ds, row.line, *row.reasons) for row in rows if row.reasons)
    for ds, counts in result.counts.items():
        own = [row for row in rows if row.ds == ds]
        assert counts.raw == len(own)
        assert counts.reasons == Counter(reason for row in own for reason in row.reasons)
        assert counts.splits == Counter(row.split for row in own if not row.reasons)
    examples, valid = Examples.open(result.url), [row for row in rows if not row.reasons]
    tables = [
        pq.read_table(f"{examples.url}/{s.path}", partitioning=None).append_column(
            "at", pa.array([(s.ds, s.split)] * s.rows)
        )
        for s in examples.shards()
    ]
    stored = pa.concat_tables(tables).to_pylist()
    for row in stored:
        if "time_hour" in row:
            row["time_hour"] = row["time_hour"].replace(tzinfo=None)
    logs = vocabularies(dataset, valid)
    wanted = [_stored(dataset, row, logs) for row in valid]
    names = [f.name for f in dataset.counted if f.name in valid[0].texts]
    ours = pd.DataFrame(
        [_comparable(dataset, row, list(valid[0].numbers), names) for row in stored]
    )
    theirs = pd.DataFrame(wanted)[ours.columns]
    by = ["at", *dataset.key, *(n for n in ours.columns if n not in ("at", *dataset.key))]
    ours, theirs = (frame.sort_values(by, ignore_index=True) for frame in (ours, theirs))
    pd.testing.assert_frame_equal(ours, theirs, check_dtype=False, rtol=1e-6)


def _stored(
    dataset: Dataset, row: Row, logs: dict[str, dict[str, tuple[int, str]]]
) -> dict[str, Any]:
    ids = {name: _id(logs[name], text, row.ds) for name, text in row.texts.items() if name in logs}
    numbers = {
        name: math.nan if x is None else float(np.float32(x)) for name, x in row.numbers.items()
    }
    key = dict(zip(dataset.key, row.key, strict=True))
    return {"at": f"{row.ds} {row.split}", **key, "label": row.label, **ids, **numbers}


def _id(entries: dict[str, tuple[int, str]], text: str | None, ds: str) -> int:
    """Null is 1; values without an entry share a bucket, here -1."""
    if text is None:
        return 1
    id_, since = entries.get(text, (-1, ""))
    return id_ if since <= ds else -1


def _comparable(
    dataset: Dataset, row: dict[str, Any], numbers: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    buckets = {f.name: range(2, 2 + f.oov_buckets) for f in dataset.counted}
    ids = {name: -1 if row[name] in buckets[name] else row[name] for name in names}
    values = {name: math.nan if row[name] is None else row[name] for name in numbers}
    key = {name: row[name] for name in dataset.key}
    at = " ".join(row["at"])
    return {"at": at, **key, "label": row[dataset.label.name], **ids, **values}
