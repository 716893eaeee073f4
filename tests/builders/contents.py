"""What a lake holds, without what differs from run to run: names, times, registry numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from jobs.lake.examples import Examples
from jobs.lake.lake import Lake, TableName
from jobs.lake.ledger import read_ledger
from jobs.nightly.record import load
from jobs.registry.registry import Registry
from jobs.rows.base.names import SOURCE_FILE
from jobs.settings.settings import Settings

_RUN_COLUMNS = ("run", "run_id", "model_version")


def digest(values: Sequence[Any]) -> str:
    """Of values in any order."""
    lines = sorted(repr(value) for value in values)
    return f"{len(lines)} {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}"


def contents(settings: Settings, dates: Sequence[str]) -> dict[str, Any]:
    """Digests of all tables and models after nights of these dates, by name."""
    lake = Lake(settings.lake_url, settings.dataset().name)
    versions = Registry(settings, lake).versions()
    weights = {version.version: version.tags["weights_digest"] for version in versions}
    examples = Examples.open(lake.table("examples").url)
    found: dict[str, Any] = {
        "examples": [
            (s.ds, s.split, s.number, s.row_group_rows, s.digest, s.order_digest)
            for s in examples.shards()
        ],
        "states": examples.info["states"],
        "weights": list(weights.values()),
        "champions": _champions(lake, weights),
        "predicted by": _rows(
            lake, "predictions", lambda r: (r["ds"], weights[r["model_version"]])
        ),
        "ledger": _ledger(lake),
        "steps": {ds: _steps(lake, ds) for ds in dates},
    }
    tables: tuple[TableName, ...] = ("quarantine", "contributions", "id_log", "predictions")
    return found | {name: _rows(lake, name, _without_runs) for name in tables}


def _rows(lake: Lake, name: TableName, keep: Any) -> str:
    return digest([keep(row) for row in lake.table(name).read_arrow().to_pylist()])


def _without_runs(row: dict[str, Any]) -> list[tuple[str, Any]]:
    """Of a raw file its place below `raw` counts, wherever that is."""
    kept = {name: value for name, value in row.items() if name not in _RUN_COLUMNS}
    if SOURCE_FILE in kept:
        kept[SOURCE_FILE] = kept[SOURCE_FILE].rpartition("/raw/")[2]
    return list(kept.items())


def _champions(lake: Lake, weights: dict[str, str]) -> list[str]:
    """One after the other."""
    moves = [row for row in read_ledger(lake, stage="promote") if row["status"] == "done"]
    order = dict.fromkeys(move["versions"]["to"] for move in moves)
    return [weights[version] for version in order]


def _ledger(lake: Lake) -> dict[str, Any]:
    """The newest row of each stage and date says the same, whatever came before it."""
    rows = {(row["stage"], row["ds"]): row for row in read_ledger(lake)}
    kept = ("etl", "train", "gate", "score")
    return {
        f"{stage} {ds}": (row["counts"], row["digests"])
        for (stage, ds), row in sorted(rows.items())
        if stage in kept
    }


def _steps(lake: Lake, ds: str) -> dict[str, tuple[str, int]]:
    return {name: (step.status, step.exit_code) for name, step in load(lake, ds).steps.items()}
