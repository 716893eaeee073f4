"""The forms in which a table's rows travel: ids with their number, and values of few lengths."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F


def pack_ids(ids: Tensor) -> Tensor:
    """int32 [n] -> the number n, the ids, and zeros up to a `rounded` length, int32."""
    count = ids.new_full((1,), len(ids))
    return F.pad(torch.cat([count, ids]), (0, rounded(len(ids) + 1) - len(ids) - 1))


def unpack_ids(packed: Tensor) -> Iterator[Tensor]:
    """The ids of each rank, from what `pack_ids` gave, laid end to end."""
    while len(packed):
        end = int(packed[0]) + 1
        yield packed[1:end]
        packed = packed[rounded(end) :]


def shortened(values: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Values in a shorter dtype, if any.

    float16 ends at 65,504; a gradient beyond it is cut, not made infinite.
    """
    if dtype is None:
        return values
    most = torch.finfo(dtype).max
    return values.clamp(-most, most).to(dtype)


def rounded(length: int) -> int:
    """The next of few lengths, at most a sixteenth more.

    Horovod negotiates anew what changes its shape, which took a sixth of the round.
    """
    step = 1 << max(0, length.bit_length() - 5)
    return -(-length // step) * step
