"""Whether all ranks hold the same weights, told by a number that each makes of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jobs.base.errors import MillstreamError
from jobs.train.step.history import Position

_WHOLE, _MASK = 8, (1 << 64) - 1
# An odd number, so that where a tensor stands counts and nothing is lost.
_FACTOR = 0x9E37_79B9_7F4A_7C15


class ReplicasDiffer(MillstreamError):
    """The weights are not the same on all ranks."""


def sum_of_bits(tensors: Mapping[str, Tensor]) -> int:
    """A number of 64 bits, as int64, that differs when one value of one tensor differs.

    Other differences may cancel each other out, though hardly by chance. Each tensor's bytes are
    added up as words of 64 bits, which takes half the time of copying them.
    """
    parts = [part for tensor in tensors.values() for part in _parts(tensor)]
    if not parts:
        return 0
    total = 0
    # Together, because asking a GPU waits for all of its work.
    for part in torch.stack([part.sum(dtype=torch.int64) for part in parts]).tolist():
        total = (total * _FACTOR + part) & _MASK
    return total - (1 << 64) if total >> 63 else total


def _parts(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor's bytes as int64, and those that are left over as uint8."""
    own = tensor.detach().contiguous()
    if own.storage_offset() * own.itemsize % _WHOLE:
        # A row of another tensor may begin within a word.
        own = own.clone()
    data = own.view(-1).view(torch.uint8)
    whole = len(data) // _WHOLE * _WHOLE
    return data[:whole].view(torch.int64), data[whole:]


def check_replicas(sums: Sequence[int], position: Position) -> None:
    """Compares what `sum_of_bits` made of each rank's weights.

    Args:
        sums: in order of the ranks.

    Raises:
        ReplicasDiffer: they are not all the same; names the ranks that differ.
    """
    ((most, count),) = Counter(sums).most_common(1)
    if count == len(sums):
        return
    known = most if count > len(sums) / 2 else sums[0]
    ranks = [rank for rank, own in enumerate(sums) if own != known]
    others = "the other ranks" if count > len(sums) / 2 else "rank 0"
    named = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
    raise ReplicasDiffer(
        f"the weights of {named} differ from those of {others} at {position.named()}",
        "the same bits on all ranks",
        "nothing of it is kept: --resume auto goes on from the last checkpoint; should it happen "
        "again, look at memory and CPU type of that rank's host, and at what the model keeps",
    )
