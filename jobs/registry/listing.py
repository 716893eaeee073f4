"""The registered models as a table, and going back to an earlier champion."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.registry.promotions import champions, dates_scored_by, moves
from jobs.registry.registry import Registry

_COLUMNS = ("version", "trained over", "rows measured on", "metric", "weights", "run", "champion")


def models_table(registry: Registry, split: str) -> str:
    """One line a version, oldest first: what it is, how good, and when it was champion."""
    stack = champions(registry.lake)
    promoted = {
        move["versions"]["to"]: f"{move['recorded_at']:%Y-%m-%d %H:%M}"
        for move in moves(registry.lake)
        if move["status"] == "done"
    }
    lines = []
    for version in registry.versions():
        standing = ""
        if version.version in promoted:
            now = bool(stack) and stack[-1] == version.version
            standing = f"{'now, ' if now else ''}since {promoted[version.version]}"
        measured = registry.evaluation(version)
        lines.append(
            (
                version.version,
                version.tags["dates"],
                split if measured else "",
                _quality(measured, split),
                version.tags["weights_digest"][:12],
                version.tags["run_id"],
                standing,
            )
        )
    return text_table(_COLUMNS, lines) if lines else f"no model of {registry.name} is registered"


def _quality(measured: dict[str, float], split: str) -> str:
    names = ("auc", "log_loss", "accuracy", "rmse")
    known = [n for n in names if f"{split}.{n}" in measured]
    return ", ".join(f"{n} {measured[f'{split}.{n}']:.4f}" for n in known[:2])


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
