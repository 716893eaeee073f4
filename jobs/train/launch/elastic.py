"""Ranks that go on when others are lost or join, in Horovod's elastic loop."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
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
    """Runs `work` again, in this process, whenever the ranks change."""

    @hvd.elastic.run  # type: ignore[untyped-decorator]
    def again(state: Survivor) -> R:
        return work(state.begin(), state.memory)

    result: R = again(Survivor(folder, stall_s, fail))
    return result


class ElasticMemory(RankMemory):
    """Commits that look whether ranks joined."""

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
    """What the elastic loop calls when ranks are lost or join.

    Args:
        folder: of the run, where ranks leave reasons.
        fail: ends this rank with an error.
    """

    def __init__(self, folder: str, stall_s: float, fail: Callable[[BaseException], None]) -> None:
        super().__init__(bcast_object=hvd.broadcast_object, get_rank=hvd.rank)
        self.memory = ElasticMemory(self)
        self._folder, self._stall_s, self._fail = folder, stall_s, fail
        self._exchange: HorovodExchange | None = None
        self._peers: dict[str, str] = {}

    def begin(self) -> HorovodExchange:
        """The exchange of the ranks as they are now; all have the first one's last commit."""
        place = f"{socket.gethostname()}, pid {os.getpid()}"
        self._exchange = HorovodExchange(self._stall_s, self._fail)
        with self._exchange.waiting():
            named = hvd.allgather_object((place, f"rank {hvd.rank()} ({place})"), name="peers")
            last = _broadcast(self.memory.last)
        peers = dict(named)
        lost = [name for place, name in self._peers.items() if place not in peers]
        self.memory.begin(last, lost, len(peers))
        self._peers = peers
        return self._exchange

    def check_host_updates(self) -> None:
        assert self._exchange is not None
        with self._exchange.waiting():
            super().check_host_updates()

    def restore(self) -> None:
        """An exchange failed."""
        if self._exchange is not None:
            self._exchange.close()
            self.memory.interrupted(self._exchange.waiting_since)
        if has_reasons(self._folder):
            # A peer ended with an error that would come again; the driver explains it.
            os._exit(1)

    def reset(self) -> None:
        if self._exchange is not None:
            self._exchange.close()

    def save(self) -> None:
        pass

    def sync(self) -> None:
        pass


def _broadcast(snapshot: Snapshot | None) -> Snapshot | None:
    """Rank 0's snapshot, on all ranks."""
    mine = hvd.rank() == 0 and snapshot is not None
    # Without a name it would get that of its type, which is another one where there is none.
    plan = hvd.broadcast_object(
        snapshot.without_tensors() if mine and snapshot else None, name="snapshot"
    )
    if plan is None:
        return None
    known = snapshot if mine and snapshot is not None else plan.empty()
    for number, tensor in enumerate(known.tensors()):
        # Flat: a tensor without dimensions cannot be sent by every exchange.
        hvd.broadcast_(tensor.view(-1), root_rank=0, name=f"snapshot.{number}")
    return known
