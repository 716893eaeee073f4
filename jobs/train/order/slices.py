"""Slices: parts of each global batch whose gradients are computed apart, at any number of ranks.

A rank's piece of a batch has other rows at another number of ranks, and a sum over ranks has
another order, so that results differ in their last bits. A slice has the same rows in the same
order at any number of ranks, and a tree over the slices says how their results are added up.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.base.errors import ConfigError


@dataclass(frozen=True)
class Slices:
    """The slices of global batches, and those of one rank: neighbours, as streams are.

    Attributes:
        count: of all slices; slice k has the rows of neighbouring streams, as many as each other.
        streams: S.
        rank, size: the rank's number, and the number of ranks.

    Raises:
        ConfigError: the streams cannot be shared equally by slices, or there are more ranks.
    """

    count: int
    streams: int
    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if self.streams % self.count:
            raise ConfigError(
                f"stream.streams is {self.streams}, train.gradient_slices {self.count}",
                "slices of equally many streams",
                "set train.gradient_slices to a divisor of stream.streams",
            )
        if self.size > self.count:
            raise ConfigError(
                f"{self.size} ranks (size), {self.count} slices (train.gradient_slices)",
                "at most one rank a slice",
                "raise train.gradient_slices, which starts another training, or train with fewer "
                "ranks",
            )

    @classmethod
    def asked(cls, count: int, streams: int, rank: int, size: int) -> Slices | None:
        """Those of `train.gradient_slices`; None where it is 1, and a rank computes all at once."""
        return cls(count, streams, rank, size) if count > 1 else None

    @property
    def owned(self) -> range:
        """Numbers of the rank's slices."""
        return self.owned_by(self.rank)

    def owned_by(self, rank: int) -> range:
        """Numbers of a rank's slices."""
        return range(rank * self.count // self.size, (rank + 1) * self.count // self.size)

    @property
    def streams_of_slice(self) -> int:
        """How many streams a slice has."""
        return self.streams // self.count

    @property
    def owned_streams(self) -> range:
        """Numbers of the streams of the rank's slices."""
        width = self.streams_of_slice
        return range(self.owned.start * width, self.owned.stop * width)


@dataclass(frozen=True)
class Node:
    """A node of the tree: slices `first` to `first + width - 1`; `width` is a power of 2."""

    first: int
    width: int

    def is_left_of(self, other: Node) -> bool:
        """Whether the two are the halves of one node, this one the left."""
        return self.width == other.width and self.first % (2 * self.width) == 0

    @property
    def parent(self) -> Node:
        """The node of which this one is the left half."""
        return Node(self.first, 2 * self.width)


def nodes_of(slices: range) -> list[Node]:
    """The fewest nodes that neighbouring slices make up, in order."""
    found: list[Node] = []
    for number in slices:
        found.append(Node(number, 1))
        while len(found) > 1 and found[-2].is_left_of(found[-1]):
            found.pop()
            found.append(found.pop().parent)
    return found
