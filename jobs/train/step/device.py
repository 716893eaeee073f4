"""Where a step computes, with how many threads, and how exactly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SWITCH_S = 0.0005


def device_of_rank() -> torch.device:
    """The GPU that the launcher chose for this process, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def step_threads(threads: int) -> Iterator[None]:
    """Torch's threads for a step, which then waits less for those that make its batches."""
    before, switched = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(threads)
    # A thread that decodes may hold Python's lock for 5 ms otherwise, a good part of a step.
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        sys.setswitchinterval(switched)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Convolutions on a GPU in whole float32, and with the same bits from run to run.

    cuDNN's own choice is TF32, which has 10 bits of a number, and sums in any order: a resumed
    training would not be the one that was not interrupted.
    """
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
