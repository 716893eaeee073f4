"""The exchange between Horovod's ranks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import horovod.torch as hvd
import torch
from torch import Tensor

from jobs.train.failures import PeersSilent
from jobs.train.step import Rows
from jobs.train.wire import pack, unpack

_POLL_S = 2e-4


class HorovodExchange:
    """Adds up over Horovod's ranks. Made inside a rank, after `hvd.init()`.

    One round a step, whatever the number of parameters: one allreduce of one flat tensor
    (Horovod's own fusion gives other bits from run to run at three ranks or more) and one
    allgather, which holds the touched rows of all embedding tables.
    """

    def __init__(self, stall_s: float, fail: Callable[[BaseException], None]) -> None:
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.bytes_sent = 0
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

    def merge(
        self, tensors: Sequence[Tensor], tables: Sequence[Rows] = ()
    ) -> tuple[list[Tensor], list[Rows]]:
        with self.waiting():
            return self._merged(tensors, tables)

    def _merged(
        self, tensors: Sequence[Tensor], tables: Sequence[Rows]
    ) -> tuple[list[Tensor], list[Rows]]:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        packed = [pack(tables)] if tables else []
        self.bytes_sent += flat.nbytes + sum(piece.nbytes for piece in packed)
        # Both are handed over before the first is waited for, so that they share a round. A name
        # is a promise of dtype and shape, which Horovod keeps in its cache.
        handles = [hvd.allgather_async(piece, name="rows") for piece in packed]
        name = f"sum.{flat.dtype}.{len(flat)}"
        handles.append(hvd.allreduce_async_(flat, op=hvd.Sum, name=name))
        # Horovod's own wait spins: it takes a core from the peers on this host that compute.
        while not all(hvd.poll(handle) for handle in handles):
            time.sleep(_POLL_S)
        *gathered, summed = [hvd.synchronize(handle) for handle in handles]
        parts = summed.split([tensor.numel() for tensor in tensors])
        sums = [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
        return sums, unpack(gathered[0], tables) if tables else []

    def start_equal(self, tensors: Iterable[Tensor]) -> None:
        with self.waiting():
            for number, tensor in enumerate(tensors):
                hvd.broadcast_(tensor, root_rank=0, name=f"start.{number}")
