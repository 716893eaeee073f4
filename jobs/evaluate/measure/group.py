"""Groups of rows that are measured apart: columns and the values that their rows share."""

from __future__ import annotations

import json
from dataclasses import dataclass

OTHER, NULL = "(other)", "(null)"


@dataclass(frozen=True)
class Group:
    """Rows with the same values of a slice's columns.

    Two groups are the same where their columns and values are, however these read as text.

    Attributes:
        by: the slice's columns.
        values: as many, None where a value is null; None for the rows of the slice that are in
            none of its kept groups.
    """

    by: tuple[str, ...]
    values: tuple[str | None, ...] | None

    @classmethod
    def of_key(cls, key: str) -> Group:
        """The group of the JSON by which rows name it: `[["city"], ["York"]]`."""
        by, values = json.loads(key)
        return cls(tuple(by), None if values is None else tuple(values))

    @property
    def slice(self) -> str:
        """The slice's name: `origin x month`."""
        return " x ".join(self.by)

    @property
    def plain(self) -> str:
        """As a user may write it in a rule: `origin=JFK,month=1`. Several groups may read alike."""
        if self.values is None:
            return f"{self.slice}={OTHER}"
        pairs = zip(self.by, self.values, strict=True)
        return ",".join(f"{name}={NULL if value is None else value}" for name, value in pairs)

    def __str__(self) -> str:
        """As shown, where no two groups read alike: odd columns and values are JSON's texts."""
        if self.values is None:
            return f"{' x '.join(map(_shown, self.by))}={OTHER}"
        pairs = zip(self.by, self.values, strict=True)
        return ",".join(
            f"{_shown(name)}={NULL if value is None else _shown(value)}" for name, value in pairs
        )


def _shown(text: str) -> str:
    odd = (
        not text.isprintable()
        or text != text.strip()
        or text in ("", OTHER, NULL)
        or any(mark in text for mark in (",", '"', "\\", " x "))
        # The marks of a bucket, `<3` and `>=8`, are no odd text.
        or "=" in text.removeprefix(">=")
    )
    return json.dumps(text, ensure_ascii=not text.isprintable()) if odd else text
