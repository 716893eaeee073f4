"""The fingerprint: everything that the order of an epoch depends on.

A checkpoint keeps it, and a training that resumes from the checkpoint must have the same one.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.base.errors import DataRefused
from jobs.lake.choice import Choice
from jobs.lake.manifest import Shard
from jobs.train.order.plan import ORDER
from schemas.dataset import Dataset

# Most dates that an error names.
_NAMED = 5


def fingerprint_of(
    shards: Sequence[Shard],
    dataset: Dataset,
    *,
    columns: Sequence[str],
    choice: Choice,
    seed: int,
    streams: int,
    window_rows: int,
) -> dict[str, Any]:
    """Builds the fingerprint of a selection of shards.

    Paths, runs and table versions are not in it: the same rows give the same order when a replay
    wrote them again, or when a file was renamed.

    Args:
        shards: those selected, ascending by date, split and number.
        columns: names of the input fields that are read.
        choice: the split and dates that were selected.
        seed, streams, window_rows: the settings of `EpochPlan`.

    Returns:
        A tree that JSON can hold. Its size grows with the number of dates, not of shards or rows.
    """
    return {
        "order": ORDER,
        "declaration": dataset.digest,
        "columns": list(columns),
        **choice.as_json(),
        "seed": seed,
        "streams": streams,
        "window_rows": window_rows,
        "rows": sum(shard.rows for shard in shards),
        "dates": {ds: _date(list(of)) for ds, of in itertools.groupby(shards, lambda s: s.ds)},
    }


def _date(shards: Sequence[Shard]) -> dict[str, Any]:
    """The number of rows of a date, and digests of its shards' content and row group sizes."""
    content = [(shard.split, shard.number, shard.rows, shard.digest) for shard in shards]
    layout = [shard.row_group_rows for shard in shards]
    return {
        "rows": sum(shard.rows for shard in shards),
        "content": hashlib.sha256(repr(content).encode()).hexdigest()[:16],
        "row_groups": hashlib.sha256(repr(layout).encode()).hexdigest()[:16],
    }


def check_fingerprint(stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to resume with an order that is not the stored one.

    Raises:
        DataRefused: they differ. The error names every setting that does, and the dates that
            gained, lost or changed rows.
    """
    differences = [*_setting_differences(stored, now), *_date_differences(stored, now)]
    if differences:
        raise DataRefused(
            "the examples or settings are not those of the checkpoint: " + "; ".join(differences),
            "the selection and the order that it was made with",
            "resume with the table version and settings of the checkpoint, or start anew with "
            "--resume never",
        )


def _setting_differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(stored.keys() | now.keys()):
        if name != "dates" and stored.get(name) != now.get(name):
            yield f"{name} was {stored.get(name)!r}, is {now.get(name)!r}"


def _date_differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    before, after = stored.get("dates", {}), now.get("dates", {})
    changed = sorted(ds for ds in before.keys() | after.keys() if before.get(ds) != after.get(ds))
    for ds in changed[:_NAMED]:
        yield f"{ds} {_change(before.get(ds), after.get(ds))}"
    if len(changed) > _NAMED:
        yield f"and {len(changed) - _NAMED} more dates"


def _change(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    """How a date's entries in two fingerprints differ, for people; None where it has none."""
    if before is None or after is None:
        return "is new" if before is None else "is gone"
    if before["rows"] != after["rows"]:
        return f"had {before['rows']} rows, has {after['rows']}"
    if before["content"] != after["content"]:
        return "has other rows"
    return "has its rows in other row groups"
