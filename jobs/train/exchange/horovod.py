"""The exchange between Horovod's ranks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor

from jobs.train.exchange.exchange import PeersSilent, SeveralRanks
from jobs.train.exchange.pending import Pending

_POLL_S = 2e-4
# Largest tensor that one waiting is for, when rank 0 sends all that it has.
_BROADCAST_BYTES = 64 << 20


class HorovodExchange(SeveralRanks):
    """The exchange between Horovod's ranks; each makes one after `hvd.init()`.

    Dense gradients are summed as one flat tensor: Horovod's own fusion of several tensors gives
    other bits from run to run at three ranks or more.

    Args:
        stall_s: longest wait for another rank, in seconds, which its watchdog keeps too.
        fail: ends this process with an error; called from another thread.

    Attributes:
        waiting_since: when the wait that goes on, or that failed, began (`time.monotonic`); None
            where this rank does not wait.
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
        """Stops watching the peers."""
        self._closed.set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Marks a block that waits for peers; when it raises, `waiting_since` stays."""
        self.waiting_since = time.monotonic()
        yield
        self.waiting_since = None

    def start_allreduce(self, name: str, tensor: Tensor) -> Pending[Tensor]:
        self.bytes_sent += tensor.nbytes
        name = _cached_name(name, tensor)
        handle = hvd.allreduce_async_(tensor, op=hvd.Sum, name=name)
        return HorovodHandle(self, handle, tensor.dtype)

    def start_allgather(self, name: str, tensor: Tensor) -> Pending[Tensor]:
        self.bytes_sent += tensor.nbytes
        sent = _sendable(tensor)
        handle = hvd.allgather_async(sent, name=_cached_name(name, sent))
        return HorovodHandle(self, handle, tensor.dtype)

    def start_alltoall(self, name: str, pieces: Sequence[Tensor]) -> Pending[list[Tensor]]:
        lengths = [len(piece) for piece in pieces]
        self.bytes_sent += sum(piece.nbytes for piece in pieces) - pieces[self.rank].nbytes
        # Horovod reads the lengths on the CPU, wherever the tensor is.
        splits = torch.tensor(lengths, dtype=torch.int32)
        sent = _sendable(torch.cat(list(pieces)))
        handle = hvd.alltoall_async(sent, splits, name=_cached_name(name, sent))
        return HorovodPieces(self, handle, pieces[0].dtype)

    def wait_for(self, handle: int) -> Any:
        """Waits for an operation of Horovod's, and counts the time."""
        began = time.perf_counter()
        with self.waiting():
            # Horovod's own wait spins: it takes a core from the peers on this host that compute.
            while not hvd.poll(handle):
                time.sleep(_POLL_S)
            received = hvd.synchronize(handle)
        self.waited_s += time.perf_counter() - began
        return received

    def broadcast(self, tensors: Iterable[Tensor], root: int = 0) -> None:
        for number, tensor in enumerate(tensors):
            # As bytes [n]: Horovod knows no bool or bfloat16, and not every transport can send a
            # tensor without dimensions.
            flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
            # Each piece has the whole deadline: how long all take depends on the model's size.
            for piece in torch.split(flat, _BROADCAST_BYTES):
                with self.waiting():
                    name = _cached_name(f"start.{number} of {root}", piece)
                    hvd.broadcast_(piece, root_rank=root, name=name)
            if not tensor.is_contiguous():
                tensor.copy_(flat.view(tensor.dtype).view(tensor.shape))


@dataclass(frozen=True)
class HorovodHandle(Pending[Tensor]):
    """An allreduce or allgather of a dtype that Horovod runs, by the number that it gave it."""

    exchange: HorovodExchange
    handle: int
    dtype: torch.dtype

    def result(self) -> Tensor:
        received: Tensor = self.exchange.wait_for(self.handle)
        return received.view(self.dtype)


@dataclass(frozen=True)
class HorovodPieces(Pending[list[Tensor]]):
    """An alltoall of a dtype that Horovod runs, by the number that it gave it."""

    exchange: HorovodExchange
    handle: int
    dtype: torch.dtype

    def result(self) -> list[Tensor]:
        received, lengths = self.exchange.wait_for(self.handle)
        return list(torch.split(received.view(self.dtype), lengths.tolist()))


def _sendable(tensor: Tensor) -> Tensor:
    """The tensor, or its bits: Horovod knows no bfloat16."""
    return tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor


def _cached_name(name: str, tensor: Tensor) -> str:
    """A name for tensors of this dtype and row shape only.

    Horovod caches both by name: tensors that take turns under one name are negotiated each time.
    """
    return f"{name}, {tensor.dtype} of {tuple(tensor.shape)[1:]}"
