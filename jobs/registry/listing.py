"""The registered models as a table, and going back to an earlier champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobs.lake.ledger import read_ledger
from jobs.registry.promotions import champions, dates_scored_by, moves
from jobs.registry.registry import Registry

_COLUMNS = ("version", "trained over", "metric", "measured on", "weights", "run", "champion")


def models_table(registry: Registry) -> str:
    """One line a version, oldest first: what it is, how good, and when it was champion.

    How good is what was measured last, and on which rows: as a challenger, as the champion beside
    a challenger, or by `millstream evaluate`.
    """
    stack = champions(registry.lake)
    promoted = {
        move["versions"]["to"]: f"{move['recorded_at']:%Y-%m-%d %H:%M}"
        for move in moves(registry.lake)
        if move["status"] == "done"
    }
    measured = {
        row["versions"]["model"]: row for row in read_ledger(registry.lake, stage="evaluate")
    }
    lines = []
    for version in registry.versions():
        standing = ""
        if version.version in promoted:
            now = bool(stack) and stack[-1] == version.version
            standing = f"{'now, ' if now else ''}since {promoted[version.version]}"
        row = measured.get(version.version)
        lines.append(
            (
                version.version,
                version.tags["dates"],
                _quality(row["metrics"]) if row else "",
                row["message"] if row else "",
                version.tags["weights_digest"][:12],
                version.tags["run_id"],
                standing,
            )
        )
    return text_table(_COLUMNS, lines) if lines else f"no model of {registry.name} is registered"


def _quality(metrics: Mapping[str, float]) -> str:
    known = [name for name in ("auc", "log_loss", "accuracy", "rmse") if name in metrics]
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in known[:2])


def text_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart."""
    widths = [max(len(line[i]) for line in (heads, *lines)) for i in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (heads, *lines)
    )


def roll_back(registry: Registry, run: str, to: str | None) -> str:
    """Moves the champion back, and says which dates the versions that went had scored.

    Raises:
        DataRefused, Locked: see `Registry.rollback`.
    """
    before = champions(registry.lake)
    gone, now = registry.rollback(run, to)
    left = [version for version in before if version not in champions(registry.lake)] or [gone]
    scored = dates_scored_by(registry.lake, left)
    affected = [
        f"version {version}: {', '.join(dates)}" for version, dates in scored.items() if dates
    ]
    lines = [f"predictions of {one}; score these dates again" for one in affected]
    return "\n".join([*lines, f"rollback: version {now} is the champion again, {gone} was"])
