"""Ranks: launched by Horovod inside the Spark session, adding up over Gloo. Alone, without both.

The only module that imports Horovod, and only where there is more than one rank.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from pyspark.sql import SparkSession
from torch import Tensor

import jobs
from jobs.errors import ConfigError
from jobs.sections import TrainSettings
from jobs.train.commits import Memory
from jobs.train.failures import PeersSilent, RankFailed, explained, has_reasons, leave_reason
from jobs.train.output import RankOutput, quiet_spark_thread
from jobs.train.slots import environment, refuse_too_few_slots, ship_code, task_attempts
from jobs.train.snapshot import Snapshot
from jobs.train.step import Alone, Exchange, Rows
from jobs.train.watchdog import watched
from jobs.train.wire import pack, unpack

R = TypeVar("R")
log = logging.getLogger("millstream.train")

_POLL_S = 1e-4


class HorovodExchange:
    """Adds up over Horovod's ranks. Made inside a rank, after `hvd.init()`.

    One round a step, whatever the number of parameters: one allreduce of one flat tensor
    (Horovod's own fusion gives other bits from run to run at three ranks or more) and one
    allgather, which holds the touched rows of all embedding tables.
    """

    def __init__(self, stall_s: float, fail: Callable[[BaseException], None]) -> None:
        import horovod.torch as hvd

        self._hvd = hvd
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
        hvd = self._hvd
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
                self._hvd.broadcast_(tensor, root_rank=0, name=f"start.{number}")


def launch(
    work: Callable[[Exchange, Memory], R],
    *,
    spark: SparkSession,
    workers: int,
    settings: TrainSettings,
    folder: str,
) -> list[R]:
    """Runs `work` on each rank; returns the results in order of the ranks.

    A single rank runs in this process. Otherwise each rank is a process that a Spark task starts.

    Args:
        work: sent by pickle; modules that it names must be importable where Spark's tasks run.
        folder: of the run, where a rank that fails leaves its reason. All ranks can write there.

    Raises:
        ConfigError: Spark cannot run as many tasks at a time.
        RankFailed: a rank ended without a result.
        MillstreamError: what `work` raised on a rank, with the rank's number.
    """
    if workers == 1:
        return [work(Alone(), Memory())]
    refuse_too_few_slots(spark, workers, settings.start_timeout_s)
    import horovod.spark

    ship_code(spark)
    # Python of the tasks: under --archives, the driver's is at another place.
    python = spark.sparkContext.pythonExec
    output = RankOutput()
    elastic = task_attempts(spark) > 1
    rank = partial(_run_rank, work, folder, settings.stall_s, log.getEffectiveLevel(), elastic)
    common: dict[str, Any] = {
        "num_proc": workers,
        "start_timeout": settings.start_timeout_s,
        # On top of the environment of Spark's tasks.
        "env": environment(settings),
        "stdout": output,
        "stderr": output,
        "verbose": 0,
    }
    try:
        with quiet_spark_thread(), _elastic_ranks_by(python):
            results: list[R | None] = (
                horovod.spark.run_elastic(
                    rank,
                    min_num_proc=1,
                    max_num_proc=workers,
                    elastic_timeout=settings.start_timeout_s,
                    **common,
                )
                if elastic
                else horovod.spark.run(rank, use_gloo=True, executable=python, **common)
            )
    except Exception as error:
        lines = output.last_lines()
        raise explained(error, folder, workers, settings.stall_s, lines) from error
    # A task that no rank ran in any more has none.
    return [result for result in results if result is not None]


@contextmanager
def _elastic_ranks_by(python: str) -> Iterator[None]:
    """Horovod starts the ranks of `run_elastic` by the driver's interpreter, wherever they are."""
    from horovod.spark import gloo_run

    before = gloo_run.sys
    gloo_run.sys = SimpleNamespace(executable=python)
    try:
        yield
    finally:
        gloo_run.sys = before


def _run_rank(
    work: Callable[[Exchange, Memory], R], folder: str, stall_s: float, level: int, elastic: bool
) -> R:
    """Runs in each rank's process."""
    import horovod.torch as hvd

    hvd.init()
    prefix = "" if hvd.rank() == 0 else f"rank {hvd.rank()}: "
    logging.basicConfig(stream=sys.stderr, format=prefix + "%(message)s")
    log.setLevel(level)
    rank = hvd.rank()
    log.info("%s%s", "" if prefix else "rank 0: ", _place())

    def fail(error: BaseException) -> None:
        leave_reason(error, rank, folder)
        # At once, with the peers still in an exchange: the launcher sees the exit code and ends
        # them, whereas hvd.shutdown() would wait for them.
        os._exit(1)

    try:
        _take_gpu()
        with watched(stall_s):
            if elastic:
                result = _run_elastic_rank(work, folder, stall_s, fail)
            else:
                result = work(HorovodExchange(stall_s, fail), Memory())
    except BaseException as error:
        fail(error)
        raise
    hvd.shutdown()
    return result


def _place() -> str:
    """Where to look for this rank: its host, its process, and the folder of its Spark executor."""
    code = next(iter(jobs.__path__))
    return f"runs on {socket.gethostname()}, pid {os.getpid()}, in {Path.cwd()}, code from {code}"


def _take_gpu() -> None:
    """Makes the GPU that Spark gave this rank's task the current one.

    Raises:
        ConfigError: Spark gives none, although there are some.
    """
    from horovod.spark.task import get_available_devices

    if not torch.cuda.is_available():
        return
    given = get_available_devices()
    if not given:
        raise ConfigError(
            "Spark gave this rank no GPU, although its host has some",
            "one for each task",
            "set spark.task.resource.gpu.amount and its discovery script; to train on CPUs, set "
            "CUDA_VISIBLE_DEVICES to nothing where the tasks run",
        )
    torch.cuda.set_device(int(given[0]))


def _run_elastic_rank(
    work: Callable[[Exchange, Memory], R],
    folder: str,
    stall_s: float,
    fail: Callable[[BaseException], None],
) -> R:
    """Runs `work` again, in this process, whenever the ranks change."""
    import horovod.torch as hvd

    state = _elastic_state(folder, stall_s, fail)

    @hvd.elastic.run  # type: ignore[untyped-decorator]
    def again(state: Any) -> R:
        return work(state.begin(), state.memory)

    result: R = again(state)
    return result


def _elastic_state(folder: str, stall_s: float, fail: Callable[[BaseException], None]) -> Any:
    """What Horovod's elastic loop calls when ranks are lost or join."""
    import horovod.torch as hvd
    from horovod.common.elastic import State
    from horovod.common.exceptions import HostsUpdatedInterrupt

    class RankMemory(Memory):
        def committed(self, snapshot: Snapshot) -> None:
            super().committed(snapshot)
            try:
                state.check_host_updates()
            except HostsUpdatedInterrupt:
                self.interrupted(None)
                raise

    class Survivor(State):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(bcast_object=hvd.broadcast_object, get_rank=hvd.rank)
            self.memory = RankMemory()
            self._exchange: HorovodExchange | None = None
            self._peers: dict[str, str] = {}

        def begin(self) -> HorovodExchange:
            """The exchange of the ranks as they are now; all have the first one's last commit."""
            place = f"{socket.gethostname()}, pid {os.getpid()}"
            self._exchange = HorovodExchange(stall_s, fail)
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
            if has_reasons(folder):
                # A peer ended with an error that would come again; the driver explains it.
                os._exit(1)

        def reset(self) -> None:
            if self._exchange is not None:
                self._exchange.close()

        def save(self) -> None:
            pass

        def sync(self) -> None:
            pass

    state = Survivor()
    return state


def _broadcast(snapshot: Snapshot | None) -> Snapshot | None:
    """Rank 0's snapshot, on all ranks."""
    import horovod.torch as hvd

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


__all__ = ["HorovodExchange", "RankFailed", "launch"]
