"""Ranks: launched by Horovod inside the Spark session, adding up over Gloo. Alone, without both.

The only module that imports Horovod, and only where there is more than one rank.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from pyspark.sql import SparkSession
from torch import Tensor

from jobs.errors import ConfigError
from jobs.sections import TrainSettings
from jobs.train.failures import PeersSilent, RankFailed, explained, leave_reason
from jobs.train.snapshot import Memory
from jobs.train.step import Alone, Exchange, Rows
from jobs.train.watchdog import watched

R = TypeVar("R")
log = logging.getLogger("millstream.train")


class HorovodExchange:
    """Adds up over Horovod's ranks. Made inside a rank, after `hvd.init()`.

    One round a step, whatever the number of parameters: one grouped allreduce (Horovod's own
    fusion gives other bits from run to run at three ranks or more) and two allgathers, which hold
    the touched rows of all embedding tables.
    """

    def __init__(self, stall_s: float, fail: Callable[[BaseException], None]) -> None:
        import horovod.torch as hvd

        self._hvd = hvd
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.bytes_sent = 0
        self._stall_s = stall_s
        self._waiting_since: float | None = None
        threading.Thread(target=self._watch_peers, args=(fail,), daemon=True).start()

    def _watch_peers(self, fail: Callable[[BaseException], None]) -> None:
        """Ends this rank when an exchange takes too long.

        Horovod's own limit (HOROVOD_STALL_SHUTDOWN_TIME_SECONDS) did not end a wait of ten times
        its length for tensors that are in its cache.
        """
        while True:
            time.sleep(self._stall_s / 10)
            since = self._waiting_since
            if since is not None and time.monotonic() - since > self._stall_s:
                fail(PeersSilent(f"waited {self._stall_s:g} s in an exchange"))

    def merge(
        self, tensors: Sequence[Tensor], tables: Sequence[Rows] = ()
    ) -> tuple[list[Tensor], list[Rows]]:
        hvd = self._hvd
        self._waiting_since = time.monotonic()
        sent = [tensor.contiguous() for tensor in tensors]
        packed = pack(tables) if tables else ()
        self.bytes_sent += sum(tensor.nbytes for tensor in (*sent, *packed))
        # All are handed over before the first is waited for, so that they share a round. A name
        # is a promise of dtypes and shapes, which Horovod keeps in its cache.
        name = f"sum.{len(sent)}.{sent[0].dtype}.{sum(tensor.numel() for tensor in sent)}"
        summing = hvd.grouped_allreduce_async(sent, op=hvd.Sum, name=name)
        gathering = [
            hvd.allgather_async(tensor, name=f"rows.{what}")
            for tensor, what in zip(packed, ("ids", "values"), strict=False)
        ]
        summed = list(hvd.synchronize(summing))
        gathered = [hvd.synchronize(handle) for handle in gathering]
        self._waiting_since = None
        if not tables:
            return summed, []
        ids, values = gathered
        return summed, unpack(ids, values, [piece.values.shape[1] for piece in tables])

    def start_equal(self, tensors: Iterable[Tensor]) -> None:
        for number, tensor in enumerate(tensors):
            self._hvd.broadcast_(tensor, root_rank=0, name=f"start.{number}")


def pack(pieces: Sequence[Rows]) -> tuple[Tensor, Tensor]:
    """The touched rows of all tables as one tensor of ids and one of values.

    A rank without rows sends the counts alone, so every rank takes part in every round.

    Returns:
        int32 [T + r]: the number of rows of each of the T tables, then the ids, table by table;
        and the values [sum of rows times dimensions], in the same order.
    """
    first = pieces[0]
    counts = torch.tensor([len(p.ids) for p in pieces], device=first.ids.device)
    ids = torch.cat([counts, *(piece.ids for piece in pieces)])
    return ids.to(torch.int32), torch.cat([piece.values.reshape(-1) for piece in pieces])


def unpack(ids: Tensor, values: Tensor, dims: Sequence[int]) -> list[Rows]:
    """What `pack` gave, of all ranks one after the other, as the rows of each table.

    Args:
        ids, values: packed pieces, laid end to end.
        dims: dimensions of each table.
    """
    found: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in dims]
    at_id = at_value = 0
    while at_id < len(ids):
        counts = ids[at_id : at_id + len(dims)].tolist()
        at_id += len(dims)
        for (of_ids, of_values), count, dim in zip(found, counts, dims, strict=True):
            of_ids.append(ids[at_id : at_id + count].long())
            of_values.append(values[at_value : at_value + count * dim].view(count, dim))
            at_id, at_value = at_id + count, at_value + count * dim
    return [Rows(torch.cat(of_ids), torch.cat(of_values)) for of_ids, of_values in found]


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
    _refuse_too_few_slots(spark, workers)
    import horovod.spark

    output = _RankOutput()
    try:
        with _quiet_spark_thread():
            results: list[R] = horovod.spark.run(
                partial(_run_rank, work, folder, settings.stall_s, log.getEffectiveLevel()),
                num_proc=workers,
                start_timeout=settings.start_timeout_s,
                use_gloo=True,
                # On top of the environment of Spark's tasks.
                env=_environment(settings),
                stdout=output,
                stderr=output,
                verbose=0,
            )
    except Exception as error:
        lines = output.last_lines()
        raise explained(error, folder, workers, settings.stall_s, lines) from error
    return results


@contextmanager
def _quiet_spark_thread() -> Iterator[None]:
    """Keeps the trace of Horovod's own Spark thread to itself: what ended it is raised here."""
    before = threading.excepthook

    def hook(raised: threading.ExceptHookArgs) -> None:
        if raised.thread is not None and "run_spark" in raised.thread.name:
            log.debug("Horovod's Spark job ended: %s", raised.exc_value)
        else:
            before(raised)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _environment(settings: TrainSettings) -> dict[str, str]:
    """All of Horovod's deadlines follow from `train.stall_s`; by default some are for ever."""
    return {
        "OMP_NUM_THREADS": str(settings.threads_per_rank),
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(settings.stall_s),
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(max(1, settings.stall_s // 2)),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(settings.stall_s),
        "HOROVOD_LOG_LEVEL": "fatal",
    }


def _refuse_too_few_slots(spark: SparkSession, workers: int) -> None:
    """Ranks wait for each other, so all need a slot at once; a missing one is a hang."""
    context = spark.sparkContext
    if context.getConf().get("spark.dynamicAllocation.enabled", "false") == "true":
        return
    jvm = context._jsc.sc()
    slots = jvm.maxNumConcurrentTasks(jvm.resourceProfileManager().defaultResourceProfile())
    if slots < workers:
        raise ConfigError(
            f"train.workers is {workers}, but Spark runs {slots} tasks at a time "
            f"(master {context.master})",
            f"at least {workers} slots: each rank keeps one for the whole training",
            f"set train.workers to {slots} or less, or give Spark more cores",
        )


def _run_rank(work: Callable[[Exchange, Memory], R], folder: str, stall_s: float, level: int) -> R:
    """Runs in each rank's process."""
    import horovod.torch as hvd

    hvd.init()
    prefix = "" if hvd.rank() == 0 else f"rank {hvd.rank()}: "
    logging.basicConfig(stream=sys.stderr, format=prefix + "%(message)s")
    log.setLevel(level)

    def fail(error: BaseException) -> None:
        leave_reason(error, hvd.rank(), folder)
        # At once, with the peers still in an exchange: the launcher sees the exit code and ends
        # them, whereas hvd.shutdown() would wait for them.
        os._exit(1)

    try:
        with watched(stall_s):
            result = work(HorovodExchange(stall_s, fail), Memory())
    except BaseException as error:
        fail(error)
        raise
    hvd.shutdown()
    return result


class _RankOutput:
    """Takes what ranks print, which Horovod hands over when they end: to the log, line by line."""

    # Horovod puts the Spark task's number before each line.
    _PREFIX = re.compile(r"^\[(\d+)\]<std(?:out|err)>:")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Each stream of each rank has a thread, which writes pieces of lines.
        self._held = threading.local()
        self._last: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=8))

    def write(self, text: str) -> int:
        held = getattr(self._held, "text", "") + text
        *lines, self._held.text = re.split(r"[\r\n]", held)
        with self._lock:
            for line in lines:
                self._take(line)
        return len(text)

    def _take(self, line: str) -> None:
        prefix = self._PREFIX.match(line)
        line = line[prefix.end() :] if prefix else line
        if line.strip():
            self._last[prefix[1] if prefix else ""].append(line)
            log.info("%s", line)

    def flush(self) -> None:
        pass

    def last_lines(self) -> list[str]:
        """Of all ranks, for an error that has nothing better to say."""
        with self._lock:
            return [line for lines in self._last.values() for line in lines]


__all__ = ["HorovodExchange", "RankFailed", "launch", "pack", "unpack"]
