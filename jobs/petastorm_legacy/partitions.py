"""The values of a data set's partitions, as Arrow before version 15 kept them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pyarrow as pa

# (partition's name, index of its value in the PartitionSet of its level)
PartitionKey = tuple[str, int]
# (partition's name, operator, value)
Condition = tuple[str, str, Any]


class PartitionSet:
    """The values of one level of partitions, in the order in which they were found."""

    def __init__(self, name: str, keys: Sequence[str] | None = None) -> None:
        self.name = name
        self.keys = list(keys or [])
        self.key_indices = {key: index for index, key in enumerate(self.keys)}
        self._dictionary: Any = None

    def get_index(self, key: str) -> int:
        if key not in self.key_indices:
            self.key_indices[key] = len(self.keys)
            self.keys.append(key)
        return self.key_indices[key]

    @property
    def dictionary(self) -> Any:
        """The values as an Arrow array: int64 where all are whole numbers, else strings."""
        if not self.keys:
            raise ValueError("No known partition keys")
        # Kept: each piece that is read or filtered asks for it.
        if self._dictionary is None or len(self._dictionary) != len(self.keys):
            try:
                self._dictionary = pa.array([int(key) for key in self.keys])
            except ValueError:
                self._dictionary = pa.array(self.keys)
        return self._dictionary


class ParquetPartitions:
    """The levels of partitions, outermost first."""

    def __init__(self) -> None:
        self.levels: list[PartitionSet] = []
        self.partition_names: set[str] = set()

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, level: int) -> PartitionSet:
        return self.levels[level]

    def get_index(self, level: int, name: str, key: str) -> int:
        if level == len(self.levels):
            if name in self.partition_names:
                raise ValueError(f"{name} was the name of the partition in another level")
            self.levels.append(PartitionSet(name))
            self.partition_names.add(name)
        return self.levels[level].get_index(key)

    def accepts(self, level: int, key: PartitionKey, condition: Condition) -> bool:
        """Whether a partition's value meets (column, operator, value); others' columns always."""
        name, index = key
        column, sign, wanted = condition
        if name != column:
            return True
        if sign not in _OPERATORS:
            raise ValueError(f"'{sign}' is not a valid operator in predicates")
        several = isinstance(wanted, Collection) and not isinstance(wanted, str)
        if several != (sign in ("in", "not in")):
            raise ValueError(f"Op '{sign}' not supported with the value {wanted!r}")
        kind = _kind(list(wanted)) if several else type(wanted)
        value = kind(self.levels[level].dictionary[index].as_py())
        return bool(_OPERATORS[sign](value, wanted))


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "in": lambda found, wanted: found in wanted,
    "not in": lambda found, wanted: found not in wanted,
}


def _kind(wanted: list[Any]) -> Any:
    if len({type(value) for value in wanted}) != 1:
        raise ValueError(f"A filter needs one or more values of one type, not {wanted!r}")
    return type(wanted[0])
