"""What the ledger knows of the champion: promotions, rollbacks, and what each version scored.

A rollback takes the newest champion off the stack of champions, so that rolling back again goes
further back, and never to the version that was just taken off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.base.errors import DataRefused
from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, read_ledger, record

STAGE, ROLLBACK = "promote", "rollback"


def moves(lake: Lake) -> list[dict[str, Any]]:
    """All moves of the champion, intended and done, oldest first."""
    return read_ledger(lake, stage=STAGE)


def unfinished(lake: Lake) -> dict[str, Any] | None:
    """The newest move, if it was intended and not done."""
    found = moves(lake)
    return found[-1] if found and found[-1]["status"] == "intended" else None


def note(lake: Lake, run: str, status: str, versions: Mapping[str, str], message: str) -> None:
    """Adds a move to the ledger."""
    record(lake, [LedgerRow(run, STAGE, "", status, versions=dict(versions), message=message)])


def champions(lake: Lake) -> list[str]:
    """The stack of champions, the one of now last."""
    stack: list[str] = []
    for move in moves(lake):
        if move["status"] != "done":
            continue
        version = move["versions"]["to"]
        if move["message"] == ROLLBACK and version in stack:
            del stack[stack.index(version) + 1 :]
        else:
            # A version that comes back stands where it is now, not where it was.
            stack = [*(other for other in stack if other != version), version]
    return stack


def rollback_target(lake: Lake, to: str | None) -> str:
    """The version that a rollback makes the champion again.

    Args:
        to: a version that was champion before; the previous champion when None.

    Raises:
        DataRefused: there is none, or it never was champion.
    """
    stack = champions(lake)
    if to is None:
        if len(stack) < 2:
            later = ", ".join(_others(lake, stack))
            raise DataRefused(
                f"version {stack[0]} is the first champion" if stack else "there is no champion",
                "a champion before the one of now",
                f"give one that was champion later: --to {later}"
                if later
                else "train another model; only the gate makes a first champion",
            )
        return stack[-2]
    others = _others(lake, stack)
    if to not in others:
        raise DataRefused(
            f"version {to} {'is the champion now' if stack and to == stack[-1] else 'never was'}",
            f"a version that was champion before: {', '.join(others) or 'there is none'}",
            "only the gate makes a new champion",
        )
    return to


def _others(lake: Lake, stack: Sequence[str]) -> list[str]:
    """The versions that were champion and are not now, in order."""
    ever = {move["versions"]["to"] for move in moves(lake) if move["status"] == "done"}
    return sorted(ever.difference(stack[-1:]), key=int)


def dates_scored_by(lake: Lake, versions: Sequence[str]) -> dict[str, list[str]]:
    """Dates whose predictions of now are by one of these versions, by version."""
    newest = {
        row["ds"]: row["versions"].get("model", "")
        for row in read_ledger(lake, stage="score")
        if row["status"] in ("done", "unchanged")
    }
    found: dict[str, list[str]] = {version: [] for version in versions}
    for ds, version in sorted(newest.items()):
        if version in found:
            found[version].append(ds)
    return found
