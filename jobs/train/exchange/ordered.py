"""Sums over slices of a global batch, whose bits are the same at any number of ranks.

The results of two neighbouring slices are added up, then those of two such pairs, and so on, as
the tree of `order/slices.py` has it. A rank adds up what its own slices have to themselves, and all
ranks get these sums and add them up to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from jobs.train.exchange.exchange import Exchange
from jobs.train.exchange.pending import Pending, shaped_as
from jobs.train.order.slices import Node, Slices, nodes_of


class Tree:
    """Adds up values of neighbouring slices, which come in order."""

    def __init__(self) -> None:
        self._nodes: list[tuple[Node, Tensor]] = []

    def add(self, node: Node, values: Tensor) -> None:
        """Adds the sum [n] of the next slices; may overwrite it."""
        self._nodes.append((node, values))
        while len(self._nodes) > 1 and self._nodes[-2][0].is_left_of(self._nodes[-1][0]):
            _, right = self._nodes.pop()
            node, left = self._nodes.pop()
            self._nodes.append((node.parent, left.add_(right)))

    @property
    def sums(self) -> list[Tensor]:
        """The sums [n] of the nodes that the slices make up, in order."""
        return [values for _, values in self._nodes]


class PartialSums:
    """The tensors that one rank adds to sums over all ranks.

    Args:
        slices: of which the sums are; None where all of a rank's rows are one part.
    """

    def __init__(self, exchange: Exchange, slices: Slices | None) -> None:
        self._exchange, self._slices = exchange, slices
        self._like: Sequence[Tensor] = ()
        self._tree = Tree()
        self._left = iter(slices.owned if slices is not None else ())

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Adds those of the rank's next slice, of one dtype; the same shapes for all slices."""
        self._like = tensors
        if self._slices is not None:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            self._tree.add(Node(next(self._left), 1), flat)

    def start(self) -> Pending[list[Tensor]]:
        """Starts the exchange; called once, when those of all of the rank's slices were added."""
        if self._slices is None:
            return self._exchange.start_sums(self._like)
        own = torch.stack(self._tree.sums)
        gathered = self._exchange.start_allgather("sums of slices", own)
        return PendingSlices(gathered, self._like, self._slices)


@dataclass(frozen=True)
class PendingSlices(Pending[list[Tensor]]):
    """The sums of several tensors over all slices.

    Attributes:
        gathered: [nodes, n], for each node of the ranks' slices, in order, its sums of all tensors.
        like: tensors of a slice, which have the shapes of the results.
        slices: of all ranks.
    """

    gathered: Pending[Tensor]
    like: Sequence[Tensor]
    slices: Slices

    def result(self) -> list[Tensor]:
        owned = map(self.slices.owned_by, range(self.slices.size))
        nodes = list(chain.from_iterable(map(nodes_of, owned)))
        tree = Tree()
        for node, values in zip(nodes, self.gathered.result(), strict=True):
            tree.add(node, values)
        total, *others = tree.sums
        # Where their number is no power of 2, the last slices are left.
        for other in others:
            total.add_(other)
        return shaped_as(self.like, total)
