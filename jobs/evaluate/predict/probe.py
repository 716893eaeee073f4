"""Probes: rows with the scores that a model must give wherever it is loaded.

Evaluation keeps some with each model that it measures. A server takes a model only when these come
out: with the same bits on the kind of processor that made them, else to `TOLERANCE`.
"""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from jobs.base.errors import DataRefused
from jobs.batch.batch import Batch
from jobs.evaluate.predict.blocks import block_scores
from jobs.evaluate.predict.exported import batch_of, inputs_of
from jobs.evaluate.predict.ids import IdMaps
from jobs.evaluate.predict.predict import Forward, Predictor
from jobs.lake.lake import Lake
from jobs.stores.files import write_whole

ROWS = 64
TOLERANCE = 1e-6
_SCORE, _CPU = "score", "cpu"


@dataclass(frozen=True)
class Probe:
    """Encoded rows, the scores that must come out [b], and the processor that made them."""

    batch: Batch
    scores: npt.NDArray[np.float32]
    cpu: str


def write_probe(lake: Lake, digest: str, engine: str, forward: Forward, batch: Batch) -> None:
    """Keeps the scores of some rows with a model. Those that are there already stay while they
    come out: another version of torch, or of the exporter, may give other bits.

    Args:
        digest: of the model, see `Predictor.digest`.
        engine: torch or onnx.
    """
    with suppress(DataRefused):
        check_probe(read_probe(lake, digest, engine), forward)
        return
    rows = batch[:ROWS]
    scores = torch.from_numpy(block_scores(forward, rows, (ROWS,)))
    tensors = {**{f"in.{name}": t for name, t in inputs_of(rows).items()}, _SCORE: scores}
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_whole(_url(lake, digest, engine), safetensors.torch.save(whole, {_CPU: cpu_kind()}))


def probe_rows(url: str, predictor: Predictor, id_maps: IdMaps) -> Batch:
    """The first rows of a shard as the model reads them, with its ids."""
    fs, path = fsspec.core.url_to_fs(url)
    with pq.ParquetFile(path, filesystem=fs) as file:
        first = next(file.iter_batches(ROWS, use_threads=False))
    return predictor.batch(pa.Table.from_batches([first]), id_maps)


def read_probe(lake: Lake, digest: str, engine: str) -> Probe:
    """
    Raises:
        DataRefused: there is none, or it is damaged.
    """
    url = _url(lake, digest, engine)
    remedy = "`millstream evaluate --model VERSION` makes it"
    fs, path = fsspec.core.url_to_fs(url)
    try:
        content = fs.cat_file(path)
        tensors = load(content)
        cpu = _metadata(content).get(_CPU, "")
    except FileNotFoundError as error:
        raise DataRefused(
            f"the model has no probe at {url}", "rows to try it with", remedy
        ) from error
    except (SafetensorError, ValueError) as error:
        raise DataRefused(f"{url} is damaged: {error}", remedy=f"remove it; {remedy}") from error
    inputs = {name.removeprefix("in."): t for name, t in tensors.items() if name != _SCORE}
    return Probe(batch_of(inputs), tensors[_SCORE].numpy(), cpu)


def _metadata(content: bytes) -> dict[str, str]:
    """Of a safetensors file: https://github.com/huggingface/safetensors#format."""
    size = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    return found


def check_probe(probe: Probe, forward: Forward) -> None:
    """
    Raises:
        DataRefused: other scores come out.
    """
    found = block_scores(forward, probe.batch, (ROWS,))
    same_cpu = probe.cpu == cpu_kind()
    if found.shape == probe.scores.shape:
        if found.tobytes() == probe.scores.tobytes():
            return
        apart = float(np.abs(found - probe.scores).max())
        if not same_cpu and apart <= TOLERANCE:
            return
        what = f"scores that are up to {apart:g} apart from"
    else:
        what = "another number of scores than"
    wanted = "the same bits" if same_cpu else f"at most {TOLERANCE:g}, as the processor is another"
    raise DataRefused(
        f"the model gives {what} those of its probe", wanted, "restore the model's folder"
    )


def cpu_kind() -> str:
    """What the bits of a matrix product depend on: the processor, and torch's code for it."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = (line for line in info.read_text().splitlines() if line.startswith("model name"))
        model = next(names, f":{model}").partition(":")[2].strip()
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def _url(lake: Lake, digest: str, engine: str) -> str:
    return lake.folder("probes", digest, f"{engine}.safetensors")
