"""The readers that the stream is compared with; each reads some rows and says how many."""

from __future__ import annotations

import math
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

import pyarrow.parquet as pq

from benchmarks.stream_data import COLUMNS, WIDE
from jobs.lake.examples import Examples
from jobs.train.read.stream import Stream

BATCH_ROWS = 8_192
_SHUFFLED_ROWS = 262_144
_MDS_ROWS = 65_536

# Reads an epoch, given by its number; a slow peer as much of it as comes within some seconds.
GroupRequest = Callable[[int, float], int]


def readers(examples: Examples, threads: int) -> dict[str, GroupRequest]:
    """By name, those that are installed."""
    files = [f"{examples.url}/{shard.path}" for shard in examples.shards()]
    stream = Stream(examples, WIDE, split="train", batch_rows=BATCH_ROWS, decode_threads=threads)
    found: dict[str, GroupRequest] = {
        "Arrow decode alone": lambda epoch, s: _arrow(files, threads, False),
        "Arrow decode, pages' checksums checked": lambda epoch, s: _arrow(files, threads, True),
        "Millstream, shuffled": lambda epoch, s: _count(stream.epoch(epoch), len),
        "Petastorm make_batch_reader": lambda epoch, s: _petastorm(files, threads),
        "Petastorm BatchedDataLoader": lambda epoch, s: _petastorm_loader(files, threads, 0),
        "Petastorm BatchedDataLoader, shuffled": lambda epoch, s: _petastorm_loader(
            files, threads, _SHUFFLED_ROWS
        ),
    }
    if _installed("ray"):
        found["Ray Data, shuffled"] = lambda epoch, s: _ray(files, threads, s)
    if _installed("datasets"):
        found["HuggingFace datasets, shuffled"] = lambda epoch, s: _huggingface(files, s)
    if _installed("streaming"):
        found["MosaicML Streaming (MDS), shuffled"] = lambda epoch, s: _mosaic(files, threads, s)
    return found


def absent() -> list[str]:
    """Peers that are not installed."""
    peers = {"ray": "Ray Data", "datasets": "HuggingFace datasets", "streaming": "MosaicML"}
    return [name for module, name in peers.items() if not _installed(module)]


def _installed(module: str) -> bool:
    """Whether it can be imported, with all that it needs itself."""
    try:
        import_module(module)
    except ImportError:
        return False
    return True


def _count(batches: Iterable[Any], rows_of: Callable[[Any], int], seconds: float = math.inf) -> int:
    rows, until = 0, time.monotonic() + seconds
    for batch in batches:
        rows += rows_of(batch)
        if time.monotonic() > until:
            break
    return rows


def _arrow(files: list[str], threads: int, checked: bool) -> int:
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for path in files:
        waiting.put(path)
    counts: list[int] = []

    def decode() -> None:
        while True:
            try:
                file = pq.ParquetFile(waiting.get_nowait(), page_checksum_verification=checked)
            except queue.Empty:
                return
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=COLUMNS, use_threads=False)
                counts.append(rows.num_rows)

    running = [threading.Thread(target=decode) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts)


def _petastorm_reader(files: list[str], threads: int) -> Any:
    from petastorm import make_batch_reader

    return make_batch_reader(
        [f"file://{path}" for path in files],
        schema_fields=COLUMNS,
        reader_pool_type="thread",
        workers_count=threads,
        num_epochs=1,
    )


def _petastorm(files: list[str], threads: int) -> int:
    with _petastorm_reader(files, threads) as reader:
        return _count(reader, lambda group: len(group.label))


def _petastorm_loader(files: list[str], threads: int, shuffled: int) -> int:
    from petastorm.pytorch import BatchedDataLoader

    reader = _petastorm_reader(files, threads)
    with BatchedDataLoader(
        reader, batch_size=BATCH_ROWS, shuffling_queue_capacity=shuffled
    ) as loader:
        return _count(loader, lambda batch: len(batch["label"]))


def _ray(files: list[str], threads: int, seconds: float) -> int:
    import ray

    ray.init(num_cpus=threads, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    batches = ray.data.read_parquet(files, columns=COLUMNS).iter_torch_batches(
        batch_size=BATCH_ROWS, local_shuffle_buffer_size=_SHUFFLED_ROWS
    )
    return _count(batches, lambda batch: len(batch["label"]), seconds)


def _huggingface(files: list[str], seconds: float) -> int:
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=files, split="train", streaming=True, columns=COLUMNS)
    batches = rows.shuffle(buffer_size=10_000).with_format("torch").iter(BATCH_ROWS)
    return _count(batches, lambda batch: len(batch["label"]), seconds)


def _mosaic(files: list[str], threads: int, seconds: float) -> int:
    """Rows of Mosaic's own format, made here from the first ones; making them is not counted."""
    from streaming import MDSWriter, StreamingDataset
    from torch.utils.data import DataLoader

    global _mds
    if _mds is None:
        _mds = tempfile.mkdtemp()
        first = next(pq.ParquetFile(files[0]).iter_batches(_MDS_ROWS, columns=COLUMNS))
        kinds = {"int64": "int64", "int32": "int32", "float": "float32"}
        columns = {field.name: kinds[str(field.type)] for field in first.schema}
        with MDSWriter(out=_mds, columns=columns) as writer:
            for row in first.to_pandas().fillna(0.0).to_dict("records"):
                writer.write(row)
    dataset = StreamingDataset(local=_mds, shuffle=True, batch_size=BATCH_ROWS)
    loader: Iterator[Any] = iter(DataLoader(dataset, batch_size=BATCH_ROWS, num_workers=threads))
    return _count(loader, lambda batch: len(batch["label"]), seconds)


_mds: str | None = None
