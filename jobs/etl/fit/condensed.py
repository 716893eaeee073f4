"""Contributions of long ago added up in few files, so that a night does not read every date anew.

For a run's states, ids and drift all dates before its own count together. Their sums lie beside the
table, in no version of it: a folder is named by a digest of the files that were added up, so that
it is either right or not used. Where a date among them was made again, or the folder was removed,
the dates are read one by one until they are added up anew.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.etl.fit.contributions import file_schema
from jobs.etl.fit.history import CountHistory
from jobs.etl.fit.sums import SUMS, FieldSums, sum_rows
from jobs.lake.files import LiveFile
from jobs.rows.base.names import DS
from jobs.stores.files import read_json, write_json, write_stream

log = logging.getLogger("millstream.etl")

# The newest dates are left as they are, since they are made again the most.
_RECENT_DATES = 32
# A history of more dates than these is added up: then once in so many nights.
_MOST_DATES = 96
FOLDER, _FILES = "_condensed", "files.json"
_WRITTEN = pa.schema([("file", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64())])


def condensed(history: CountHistory, before: str) -> CountHistory:
    """The history with dates long before one in few files, as if of the last of these dates.

    Under the lock of the ETL.
    """
    past = history.of_dates(lambda ds: ds < before)
    known = known_files(past.url, past.files)
    if sum(ds > _last(known) for ds in past.dates) > _MOST_DATES:
        last = past.dates[-_RECENT_DATES - 1]
        _add_up(past.up_to(last), last)
        _remove_all_but(past.url, _name(past.files, last))
        known = known_files(past.url, past.files)
    rest = history.of_dates(lambda ds: ds > _last(known))
    return replace(history, files=(*known, *rest.files))


def _last(known: Sequence[LiveFile]) -> str:
    return known[0].partition[DS] if known else ""


def known_files(url: str, files: Sequence[LiveFile]) -> list[LiveFile]:
    """What some of a table's files were added up in, as if of the last of their dates; where there
    is more than one such, that of the most dates.

    Args:
        url: of the table.
        files: of some dates.
    """
    fs, root = fsspec.core.url_to_fs(f"{url}/{FOLDER}")
    # Tasks wrote there, too.
    fs.invalidate_cache()
    there = set(fs.find(root)) if fs.exists(root) else set()
    names = sorted({path.removeprefix(root).split("/")[1] for path in there}, reverse=True)
    for name in names:
        ds = name.rsplit("-", 1)[0]
        if _name(files, ds) == name and f"{root}/{name}/{_FILES}" in there:
            rows = read_json(f"{url}/{FOLDER}/{name}/{_FILES}")
            # One that another command removes now is not used.
            if all(f"{root}/{name}/{row['file']}" in there for row in rows):
                return [
                    LiveFile(f"{FOLDER}/{name}/{r['file']}", {DS: ds}, r["rows"], r["bytes"])
                    for r in rows
                ]
    return []


def paths_to_keep(url: str, files: Sequence[LiveFile]) -> set[str]:
    """The paths in the table of all that `known_files` reads."""
    known = {file.path for file in known_files(url, files)}
    return known | {f"{path.rpartition('/')[0]}/{_FILES}" for path in known}


def _name(files: Sequence[LiveFile], last: str) -> str:
    """Of a folder with what the files of dates up to `last`, one of theirs, add up to."""
    paths = sorted(file.path for file in files if file.partition[DS] <= last)
    is_date = any(file.partition[DS] == last for file in files)
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:32]
    return f"{last}-{digest}" if is_date else ""


def _add_up(past: CountHistory, last: str) -> None:
    """Adds up all dates of a history; that it was done is written last."""
    log.info("adding up the counts of %s dates, once in many nights", f"{len(past.dates):,}")
    url = f"{past.url}/{FOLDER}/{_name(past.files, last)}"
    counts = past.reduced(_counts, partial(_written_counts, url), _WRITTEN)
    sums = _written(url, _sums(sum_rows(past)))
    write_json(f"{url}/{_FILES}", pa.concat_tables([counts, sums]).to_pylist())


def _counts(table: pa.Table) -> pa.Table:
    """Counts of values and of buckets; sums have none."""
    return table.filter(table["nulls"].is_null()).select(["field", "value", "count", DS])


def _written_counts(url: str, counts: pa.Table) -> pa.Table:
    total = counts.group_by(["field", "value"], use_threads=False).aggregate([("count", "sum")])
    return _written(url, total.rename_columns(["field", "value", "count"]))


def _sums(rows: Sequence[dict[str, object]]) -> pa.Table:
    found: dict[str, FieldSums] = {}
    for row in rows:
        name = str(row["field"])
        found[name] = found.get(name, FieldSums()) + FieldSums.of(row)
    table = [{"field": name, **sums.row()} for name, sums in sorted(found.items())]
    return pa.Table.from_pylist(table, schema=SUMS).drop_columns([DS])


def _written(url: str, rows: pa.Table) -> pa.Table:
    """Writes rows of contributions into a file of their own in the folder: `_WRITTEN`."""
    schema, name = file_schema(), f"{uuid4().hex}.parquet"
    columns = [
        rows[f.name] if f.name in rows.column_names else pa.nulls(len(rows), f.type) for f in schema
    ]
    with write_stream(f"{url}/{name}") as file:
        table = pa.table(columns, schema=schema)
        pq.write_table(table, file, compression="zstd", use_dictionary=["field"])
    fs, path = fsspec.core.url_to_fs(f"{url}/{name}")
    return pa.table([[name], [len(rows)], [fs.size(path)]], schema=_WRITTEN)


def _remove_all_but(url: str, name: str) -> None:
    fs, root = fsspec.core.url_to_fs(f"{url}/{FOLDER}")
    for path in fs.ls(root, detail=False):
        if path.rstrip("/").rsplit("/", 1)[-1] != name:
            with suppress(FileNotFoundError):
                fs.rm(path, recursive=True)
