"""What of a table or folder is read: splits, a window of dates, values of partition columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.base.errors import ConfigError

Where = Mapping[str, "str | int | Collection[str | int]"]


@dataclass(frozen=True)
class Choice:
    """A choice of partitions. Values are compared as the folders' names spell them.

    Attributes:
        split: one split; all when None.
        first_ds, last_ds: dates, inclusive; open when None.
        where: partition column -> the values taken.
    """

    split: str | None = None
    first_ds: str | None = None
    last_ds: str | None = None
    where: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        split: str | None = None,
        first_ds: str | None = None,
        last_ds: str | None = None,
        where: Where | None = None,
    ) -> Choice:
        plain = {name: _texts(values) for name, values in sorted((where or {}).items())}
        return cls(split, first_ds, last_ds, plain)

    def check(self, columns: Collection[str]) -> None:
        """Raises ConfigError where a chosen column is none of the partition columns."""
        dated = self.first_ds is not None or self.last_ds is not None
        wanted = {*self.where, *(["split"] if self.split else []), *(["ds"] if dated else [])}
        if unknown := sorted(wanted - set(columns)):
            raise ConfigError(
                f"the choice of rows names {', '.join(unknown)}, which partitions nothing",
                f"partition columns, here {', '.join(columns) or 'none'}",
                "choose among those; other columns' values are not looked at before reading",
            )

    def takes(self, partition: Mapping[str, str]) -> bool:
        """Whether the rows of a partition are chosen; all its columns were checked."""
        if self.split is not None and partition["split"] != self.split:
            return False
        if self.first_ds is not None and partition["ds"] < self.first_ds:
            return False
        if self.last_ds is not None and partition["ds"] > self.last_ds:
            return False
        return all(partition[name] in values for name, values in self.where.items())

    def as_json(self) -> dict[str, Any]:
        """For fingerprints: equal where the same is chosen in the same words."""
        return {
            "split": self.split,
            "first_ds": self.first_ds,
            "last_ds": self.last_ds,
            "where": dict(self.where) or None,
        }


def _texts(values: str | int | Collection[str | int]) -> list[str]:
    several = [values] if isinstance(values, str | int) else values
    return sorted({str(value) for value in several})
