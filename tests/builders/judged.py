"""Rows judged by the engine in this process, without Spark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from jobs.etl.encode.encoder import Encoder
from jobs.etl.encode.vocabulary import stage_vocabularies
from jobs.etl.raw.sources import RawSources
from jobs.rows.judge.identity import Split
from jobs.rows.judge.judged import Judged
from jobs.rows.read.pieces import read_rows
from schemas.dataset import Dataset


def judged(
    dataset: Dataset,
    paths: Mapping[str, str],
    dates: Sequence[str],
    split: Split | None = None,
    with_label: bool = True,
) -> Judged:
    """All rows of some dates, judged together.

    Args:
        paths: of each source of the declaration.
    """
    raw = RawSources.listed(dataset, paths, dates)
    engine = raw.engine(split, with_label, 64)
    tables = list(read_rows(raw.pieces(), dataset.row_source))
    found = [engine.judge(table) for table in tables]
    return Judged(
        pa.concat_tables([one.valid for one in found]).unify_dictionaries(),
        pa.concat_tables([one.refused for one in found]),
        sum(one.others for one in found),
    )


def encoded(
    dataset: Dataset, valid: pa.Table, entries: pa.Table, folder: Path, as_of: str | None = None
) -> pa.Table:
    """Valid rows as they are stored, by the entries of an id log."""
    names = {f.log_name for f in dataset.counted}
    folder.mkdir(parents=True, exist_ok=True)
    return Encoder(dataset, stage_vocabularies(entries, names, str(folder)), as_of)(valid)
