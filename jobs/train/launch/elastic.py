"""Training that goes on when ranks are lost or join, by Horovod's elastic loop."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import horovod.torch as hvd
from horovod.common.elastic import State
from horovod.common.exceptions import HostsUpdatedInterrupt

from jobs.train.exchange.exchange import Exchange
from jobs.train.exchange.horovod import HorovodExchange
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.snapshot import Snapshot
from jobs.train.launch.failures import has_reasons

R = TypeVar("R")


def run_again(
    work: Callable[[Exchange, RankMemory], R],
    folder: str,
    stall_s: float,
    fail: Callable[[BaseException], None],
) -> R:
    """Runs `work`, and runs it again in this process whenever ranks are lost or join.

    Args:
        work: see `launch`.
        folder: URL of the run's folder.
        stall_s: longest wait for another rank, in seconds.
        fail: ends this process with an error.
    """

    @hvd.elastic.run  # type: ignore[untyped-decorator]
    def again(state: Survivor) -> R:
        return work(state.begin(), state.memory)

    result: R = again(Survivor(folder, stall_s, fail))
    return result


class ElasticMemory(RankMemory):
    """A rank's memory that looks at each commit whether new ranks wait to join."""

    def __init__(self, state: Survivor) -> None:
        super().__init__()
        self._state = state

    def committed(self, snapshot: Snapshot) -> None:
        super().committed(snapshot)
        try:
            self._state.check_host_updates()
        except HostsUpdatedInterrupt:
            self.interrupted(None)
            raise


class Survivor(State):  # type: ignore[misc]
    """A rank's state in the elastic loop, which calls its methods when ranks are lost or join.

    Args:
        folder: URL of the run's folder, where ranks that fail write why.
        stall_s: longest wait for another rank, in seconds.
        fail: ends this process with an error.
    """

    def __init__(self, folder: str, stall_s: float, fail: Callable[[BaseException], None]) -> None:
        super().__init__(bcast_object=hvd.broadcast_object, get_rank=hvd.rank)
        self.memory = ElasticMemory(self)
        self._folder, self._stall_s, self._fail = folder, stall_s, fail
        self._exchange: HorovodExchange | None = None
        self._peers: dict[str, str] = {}

    def begin(self) -> HorovodExchange:
        """Makes the exchange of the present ranks, and gives all of them the last common commit.

        Of sharded tables each keeps what it has.
        """
        place = f"{socket.gethostname()}, pid {os.getpid()}"
        self._exchange = HorovodExchange(self._stall_s, self._fail)
        with self._exchange.waiting():
            named = hvd.allgather_object((place, f"rank {hvd.rank()} ({place})"), name="peers")
        root = self.memory.agree(self._exchange)
        last = None if root is None else _broadcast(self.memory.last, self._exchange, root)
        peers = dict(named)
        lost = [name for place, name in self._peers.items() if place not in peers]
        self.memory.begin(last, lost, len(peers))
        self._peers = peers
        return self._exchange

    def check_host_updates(self) -> None:
        assert self._exchange is not None
        try:
            with self._exchange.waiting():
                super().check_host_updates()
        except HostsUpdatedInterrupt:
            # The wait is over, not failed: new ranks take their time to start.
            self._exchange.close()
            raise

    def restore(self) -> None:
        """Called when an exchange failed."""
        if self._exchange is not None:
            self._exchange.close()
            self.memory.interrupted(self._exchange.waiting_since)
        if has_reasons(self._folder):
            # A peer raised an error that would come again. The driver reports it.
            os._exit(1)

    def reset(self) -> None:
        if self._exchange is not None:
            self._exchange.close()

    def save(self) -> None:
        pass

    def sync(self) -> None:
        pass


def _broadcast(snapshot: Snapshot | None, exchange: HorovodExchange, root: int) -> Snapshot:
    """Sends a rank's snapshot to all ranks, which must all call this.

    Args:
        snapshot: this rank's own, if any.
        root: whose is sent; it has one.

    Returns:
        That one, with what this rank keeps of sharded tables.
    """
    mine = snapshot if hvd.rank() == root else None
    # By default it would be named by its type, which differs between ranks with and without one.
    with exchange.waiting():
        no_values: Snapshot = hvd.broadcast_object(
            mine.without_tensors() if mine else None, root_rank=root, name="snapshot"
        )
    known = mine or no_values.empty()
    exchange.broadcast(known.tensors(), root)
    return replace(known, tables=snapshot.tables) if snapshot else known
