"""What was made with one declaration is not read or written with another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.base.errors import DataRefused
from schemas.dataset import Dataset

REBUILD = (
    "take the change back, or start a new generation of the lake: "
    "`millstream etl --rebuild --dates FIRST..LAST`"
)


def refuse_changed_declaration(
    made: Mapping[str, Any], dataset: Dataset, what: str, remedy: str = REBUILD
) -> None:
    """Refuses what another declaration made, naming the fields that differ.

    Args:
        made: `declaration`, the digest, and `fields`, those of the fields, as a commit of the
            examples has them.
        what: it is, to begin the message with: "the examples of ...".

    Raises:
        DataRefused: the declaration changed since.
    """
    if made["declaration"] == dataset.digest:
        return
    old, new = made.get("fields", {}), dataset.field_digests
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    raise DataRefused(
        f"{what} made with another declaration of {dataset.name!r}: "
        + (f"fields {', '.join(changed)}" if changed else "sources, rules, joins or the key")
        + (" differ" if changed else ""),
        f"declaration {dataset.digest}; found {made['declaration']}",
        remedy,
    )
