"""The form in which rows of an embedding table are sent to the other ranks.

An allgather's tensors are padded to one of few lengths, because Horovod negotiates anew whenever a
tensor's length changes, which took a sixth of the exchange's time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F


def pack_ids(ids: Tensor) -> Tensor:
    """Puts the number of ids before them, and zeros after them.

    Args:
        ids: int32 [n].

    Returns:
        int32 [rounded(n + 1)]: n, the ids, zeros.
    """
    count = ids.new_full((1,), len(ids))
    return F.pad(torch.cat([count, ids]), (0, rounded(len(ids) + 1) - len(ids) - 1))


def unpack_ids(packed: Tensor) -> Iterator[Tensor]:
    """The ids of each rank.

    Args:
        packed: int32, the allgather of what `pack_ids` returned on each rank.

    Yields:
        int32 [n_r] for each rank r, in order of the ranks.
    """
    while len(packed):
        end = int(packed[0]) + 1
        yield packed[1:end]
        packed = packed[rounded(end) :]


def in_dtype(values: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Converts values to the dtype in which they are sent; to none when None.

    Values beyond the dtype's range (65,504 for float16) become its largest number, not infinity;
    infinity stays, so that it is noticed.
    """
    if dtype is None:
        return values
    most = torch.finfo(dtype).max
    # Not `isinf`, which takes ten times as long on the CPU.
    return torch.where(values.abs() == torch.inf, values, values.clamp(-most, most)).to(dtype)


def rounded(length: int) -> int:
    """Rounds a length up to one of few: the numbers with at most five significant bits.

    The result is at most a sixteenth larger than `length`.
    """
    step = 1 << max(0, length.bit_length() - 5)
    return -(-length // step) * step
