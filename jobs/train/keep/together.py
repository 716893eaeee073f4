"""Work of a rank that the others wait for and that is no exchange: what a store does for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

import torch

from jobs.base.errors import MillstreamError
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Exchange

R = TypeVar("R")
# Bytes that a store may take `train.checkpoint_timeout_s` for.
_BYTES_A_LIMIT = 1 << 30
_LONGEST_BEAT_S = 1.0


class StoreHangs(MillstreamError):
    """Work of the store takes longer than `train.checkpoint_timeout_s` allows for its size."""

    def __init__(self, what: str, limit_s: float) -> None:
        super().__init__(
            f"{what} for more than {limit_s:g} s",
            "a store that does it in train.checkpoint_timeout_s, as often as it has GiB",
            "look at the store, or raise the limit; --resume auto goes on from the last checkpoint",
        )


def limit_s(settings: TrainSettings, size: int) -> float:
    """Most seconds that the store may take for so many bytes."""
    return settings.checkpoint_timeout_s * max(1.0, size / _BYTES_A_LIMIT)


def together(
    exchange: Exchange,
    act: Callable[[], R],
    *,
    stall_s: float,
    limit_s: float,
    what: str,
) -> R:
    """Runs `act`, and returns its result when those of all ranks have ended.

    All ranks must call this, each with an act of its own. Meanwhile they tell each other again and
    again that they are alive, so that none that is ready takes another, whose store is slow, for
    lost. The act runs in another thread: it must not use the exchange.

    Args:
        stall_s: longest wait for another rank, in seconds.
        limit_s: longest that this rank's act may take.
        what: it does, for the error.

    Raises:
        StoreHangs: this rank's act takes too long.
        Exception: what this rank's act raised.
    """
    ended: Future[R] = Future()
    threading.Thread(target=_run, args=(act, ended), name="millstream-store", daemon=True).start()
    until = time.monotonic() + limit_s
    beat_s = min(_LONGEST_BEAT_S, stall_s / 10)
    while True:
        wait([ended], beat_s)
        if ended.done():
            ended.result()
        elif time.monotonic() > until:
            raise StoreHangs(what, limit_s)
        (left,) = exchange.start_sums([torch.tensor([0 if ended.done() else 1])]).result()
        if not left:
            return ended.result()


def _run(act: Callable[[], R], ended: Future[R]) -> None:
    try:
        ended.set_result(act())
    except BaseException as error:
        ended.set_exception(error)
