"""The exchange between Horovod's ranks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import horovod.torch as hvd
from torch import Tensor

from jobs.train.exchange.exchange import PeersSilent, Pending, SeveralRanks

_POLL_S = 2e-4


class HorovodExchange(SeveralRanks):
    """Adds up over Horovod's ranks. Made inside a rank, after `hvd.init()`.

    Dense parameters are one flat tensor: Horovod's own fusion gives other bits from run to run at
    three ranks or more.
    """

    def __init__(self, stall_s: float, fail: Callable[[BaseException], None]) -> None:
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.bytes_sent = 0
        self.waited_s = 0.0
        self.waiting_since: float | None = None
        # A frozen peer's watchdog ends it within stall_s, and then training goes on without it.
        self._limit_s = 1.5 * stall_s
        self._closed = threading.Event()
        threading.Thread(target=self._watch_peers, args=(fail,), daemon=True).start()

    def _watch_peers(self, fail: Callable[[BaseException], None]) -> None:
        """Ends this rank when an exchange takes too long.

        Horovod's own limit (HOROVOD_STALL_SHUTDOWN_TIME_SECONDS) did not end a wait of ten times
        its length for tensors that are in its cache.
        """
        while not self._closed.wait(self._limit_s / 15):
            since = self.waiting_since
            if since is not None and time.monotonic() - since > self._limit_s:
                fail(PeersSilent(f"waited {self._limit_s:g} s in an exchange"))

    def close(self) -> None:
        """Peers are not watched any more."""
        self._closed.set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for peers; when it fails, since when is known."""
        self.waiting_since = time.monotonic()
        yield
        self.waiting_since = None

    def start_sum(self, name: str, tensor: Tensor) -> Pending:
        name = _cached_name(name, tensor)
        return self._sent(tensor, hvd.allreduce_async_(tensor, op=hvd.Sum, name=name))

    def start_gather(self, name: str, piece: Tensor) -> Pending:
        return self._sent(piece, hvd.allgather_async(piece, name=_cached_name(name, piece)))

    def _sent(self, tensor: Tensor, handle: int) -> Pending:
        self.bytes_sent += tensor.nbytes
        return partial(self._wait, handle)

    def _wait(self, handle: int) -> Tensor:
        began = time.perf_counter()
        with self.waiting():
            # Horovod's own wait spins: it takes a core from the peers on this host that compute.
            while not hvd.poll(handle):
                time.sleep(_POLL_S)
            received: Tensor = hvd.synchronize(handle)
        self.waited_s += time.perf_counter() - began
        return received

    def start_equal(self, tensors: Iterable[Tensor]) -> None:
        with self.waiting():
            for number, tensor in enumerate(tensors):
                hvd.broadcast_(tensor, root_rank=0, name=f"start.{number}")


def _cached_name(name: str, tensor: Tensor) -> str:
    """Horovod keeps dtype and shape in its cache by name: other tensors under one name in turn
    would be negotiated each time."""
    return f"{name}, {tensor.dtype} of {tuple(tensor.shape)[1:]}"
