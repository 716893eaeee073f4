"""The device of a rank, the threads of its steps, and the exactness of its convolutions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Seconds after which a thread gives up Python's lock.
_SWITCH_S = 0.0001


def device_of_rank() -> torch.device:
    """The GPU that the launcher chose for this process, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def step_threads(threads: int) -> Iterator[None]:
    """Runs a block with so many threads in torch, and Python's threads taking turns more often."""
    before, switched = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(threads)
    # Otherwise a thread that decodes batches holds Python's lock for 5 ms, a good part of a step.
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        sys.setswitchinterval(switched)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Runs a block in which cuDNN convolves in float32, with the same bits from run to run.

    By default cuDNN uses TF32, whose fractions have 10 bits, and sums in any order. A resumed
    training would then differ from one that was not interrupted.
    """
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
