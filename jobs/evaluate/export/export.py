"""A model as a file that others run: ONNX or TorchScript, from encoded inputs to scores.

The file takes what a shard holds, by name: `dense` float32 [b, D] with NaN where a number is
missing, `sparse` int64 [b, C] of ids, and each tensor field; and gives `score` float32 [b]. The
number of rows b is free. Beside it lie the state that the ids come from and an example request with
the scores that must come out. Weights that are too large for a file of ONNX lie beside it, too, in
`model.onnx.data`, which ONNX Runtime maps.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, Literal

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from jobs.base.code import code_digest, digest_of
from jobs.base.errors import ConfigError, DataRefused
from jobs.batch.layout import Layout
from jobs.evaluate.predict.exported import Inputs, batch_of, scorer, session
from jobs.evaluate.predict.predict import Predictor
from jobs.lake.lake import Lake
from jobs.lake.state import load_state
from jobs.models.artifact import LoadedModel
from jobs.models.build import Model, predict, scores_of
from jobs.models.folder import CARD
from jobs.models.spec import ModelSpec
from jobs.registry.version import ModelVersion
from jobs.stores.files import folder_to_write, write_whole
from schemas.dataset import Dataset

Format = Literal["onnx", "torchscript"]
Scores = npt.NDArray[np.float32]
FILES: dict[Format, str] = {"onnx": "model.onnx", "torchscript": "model.pt"}
EXAMPLE = "example.json"
# Of the scores' spread over the example rows, from the least to the greatest.
TOLERANCE = 1e-5
# Where scores are large beside their spread, float32 itself is no finer than this share of them.
_ROUNDING = 4 * float(np.finfo(np.float32).eps)
_EXAMPLE_ROWS = 5
# Of a message of protobuf, which such a file is. Larger weights lie beside it.
MOST_ONNX_BYTES = 2**31
# Torch's exporter is one for all threads.
_EXPORTING = Lock()


class Exported(nn.Module):
    """What is exported: inputs by position -> scores [b]."""

    def __init__(self, model: Model, tensors: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.tensors = tuple(tensors)

    def forward(self, dense: Tensor, sparse: Tensor, *tensors: Tensor) -> Tensor:
        batch = batch_of(
            {"dense": dense, "sparse": sparse, **dict(zip(self.tensors, tensors, strict=True))}
        )
        return scores_of(self.model(batch), self.model.task)


def example_inputs(
    spec: ModelSpec, dataset: Dataset, rows: int = _EXAMPLE_ROWS, seed: int = 7
) -> Inputs:
    """Made-up inputs with missing numbers and ids of all kinds, the same for the same spec."""
    draw = torch.Generator().manual_seed(seed)
    dense = torch.randn(rows, spec.num_dense, generator=draw)
    dense = dense * torch.tensor(spec.stds) + torch.tensor(spec.means)
    dense[0] = torch.nan
    limits = torch.tensor(spec.table_rows, dtype=torch.float64)
    drawn = torch.rand(rows, len(spec.table_rows), generator=draw, dtype=torch.float64)
    inputs = {"dense": dense.float(), "sparse": (1 + drawn * (limits - 1)).long()}
    for name, like in sorted(Layout(dataset, spec.columns(dataset)).padding().tensors.items()):
        # Ids and lengths of 0 and 1 are within any table and any sequence.
        most = {torch.uint8: 256, torch.int64: 2}.get(like.dtype, 1)
        values = torch.rand(rows, *like.shape[1:], generator=draw) * most
        inputs[name] = values.to(like.dtype)
    return inputs


def export(loaded: LoadedModel, dataset: Dataset, format_: Format, folder: Path) -> None:
    """Writes the files of an exported model: itself, its card and an example request.

    Args:
        loaded: the model.
        dataset: the declaration that it was trained with.
        folder: a local one.

    Raises:
        ConfigError: the model cannot be exported.
        DataRefused: the exported model's scores differ by more than TOLERANCE of their spread.
    """
    inputs = example_inputs(loaded.spec, dataset)
    network = Exported(loaded.model, [n for n in inputs if n not in ("dense", "sparse")]).eval()
    make = {"onnx": _onnx, "torchscript": _torchscript}[format_]
    path = folder / FILES[format_]
    try:
        make(network, inputs, path)
    except Exception as error:
        raise ConfigError(
            f"model {loaded.card['model']!r} cannot be exported as {format_}: {_first_line(error)}",
            "a model that torch can trace, without branches on its values",
            "export it in the other format, or score with engine torch",
        ) from error
    # Other rows than it was traced with, and another number of them.
    sizes = ((1, 8), (2 * _EXAMPLE_ROWS, 9))
    asked = [inputs, *(example_inputs(loaded.spec, dataset, *size) for size in sizes)]
    expected = [predict(loaded.model, batch_of(one)).numpy() for one in asked]
    _check_equal([run(path, format_, one) for one in asked], expected)
    example = {
        "inputs": {name: _plain(tensor) for name, tensor in inputs.items()},
        "score": expected[0].tolist(),
        "format": format_,
        "weights_digest": loaded.digest,
    }
    (folder / EXAMPLE).write_text(json.dumps(example, indent=1))
    (folder / CARD).write_text(json.dumps(loaded.card, indent=1))


def _plain(tensor: Tensor) -> Any:
    """Lists for JSON, which has no NaN: null stands for it."""
    values = (
        tensor.double().numpy().astype(object) if tensor.is_floating_point() else tensor.numpy()
    )
    if tensor.is_floating_point():
        values[np.isnan(tensor.numpy())] = None
    return values.tolist()


def run(path: Path, format_: Format, inputs: Inputs) -> Scores:
    """Scores [b] by the exported model in a file."""
    if format_ == "onnx":
        return scorer(session(str(path), threads=1))(inputs)
    network = torch.jit.load(path)  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        found: Scores = network(*inputs.values()).numpy()
    return found


def _onnx(network: Exported, inputs: Inputs, path: Path) -> None:
    rows = torch.export.Dim("rows")
    shapes: list[Any] = [{0: rows} for _ in inputs]
    dynamic = (*shapes[:2], tuple(shapes[2:])) if len(shapes) > 2 else tuple(shapes)
    with _quiet():
        # Given the module itself, the exporter may fix the number of rows and not say so.
        traced = torch.export.export(network, tuple(inputs.values()), dynamic_shapes=dynamic)
        program = torch.onnx.export(
            traced,
            input_names=list(inputs),
            output_names=["score"],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    size = sum(weights.nbytes for weights in network.state_dict().values())
    program.save(path, external_data=size >= MOST_ONNX_BYTES)


def _torchscript(network: Exported, inputs: Inputs, path: Path) -> None:
    with _quiet(), torch.no_grad():
        trace: Any = torch.jit.trace
        traced = trace(network, tuple(inputs.values()), check_trace=False)
    torch.jit.save(traced, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' chatter, which tells a user nothing to act on."""
    names = ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _check_equal(found: Sequence[Scores], expected: Sequence[Scores]) -> None:
    whole = np.concatenate([one.reshape(-1) for one in expected])
    spread, largest = float(np.ptp(whole)), float(np.abs(whole).max())
    most = max(TOLERANCE * spread, _ROUNDING * largest)
    for ours, theirs in zip(expected, found, strict=True):
        apart = float(np.abs(theirs - ours).max()) if ours.shape == theirs.shape else math.inf
        if not apart <= most:
            raise DataRefused(
                f"the exported model's scores are {apart:g} apart from the model's",
                f"at most {most:g}, {TOLERANCE:g} of their spread of {spread:g}",
                "report this model; nothing was written",
            )


def _first_line(error: Exception) -> str:
    """What went wrong, without the exporters' advice around it."""
    lines = [line for line in str(error).splitlines() if "<class" in line or "Error:" in line]
    return (lines or str(error).strip().splitlines() or [type(error).__name__])[0]


def export_version(
    lake: Lake, model: ModelVersion, dataset: Dataset, format_: Format, folder_url: str
) -> None:
    """Writes a registered model, its state and an example request into a folder.

    The state is `state.json` with the statistics, and `vocabulary.parquet` with (field, value, id).

    Raises:
        ConfigError, DataRefused: see `export`; or the folder is there already.
    """
    fs, path = fsspec.core.url_to_fs(folder_url)
    if fs.exists(path):
        raise ConfigError(f"{folder_url} is there already", "a new folder", "name another one")
    state = load_state(lake, model.tags["state_digest"])
    log = lake.table("id_log").read_arrow(state.id_log_version)
    known = log.filter(pc.less_equal(log["from_ds"], state.ds)).select(["field", "value", "id"])
    found = Predictor.of(model, dataset, batch_rows=1).whole_model()
    with folder_to_write(folder_url, last=CARD) as folder:
        export(found, dataset, format_, folder)
        (folder / "state.json").write_text(json.dumps(asdict(state), indent=1))
        entries = known.sort_by([("field", "ascending"), ("id", "ascending")])
        pq.write_table(entries, folder / "vocabulary.parquet")


def with_engine(lake: Lake, predictor: Predictor, engine: str) -> Predictor:
    """The predictor with an engine, torch or onnx; an export is made where it is not yet.

    Raises:
        ConfigError, DataRefused: see `export`.
    """
    if engine != "onnx":
        return predictor
    url = lake.folder("exports", predictor.digest, _maker("onnx"), FILES["onnx"])
    fs, path = fsspec.core.url_to_fs(url)
    with _EXPORTING:
        if not fs.exists(path):
            _refuse_large_tables(predictor)
            with TemporaryDirectory(prefix="millstream-") as folder:
                export(predictor.whole_model(), predictor.dataset, "onnx", Path(folder))
                write_whole(url, Path(folder, FILES["onnx"]).read_bytes())
    digest = hashlib.sha256(fs.cat_file(path)).hexdigest()
    return replace(predictor, onnx_url=url, onnx_digest=digest)


def _refuse_large_tables(predictor: Predictor) -> None:
    """Refuses a model whose export is no single file, before its tables are read.

    Raises:
        ConfigError: names the tables and their sizes.
    """
    tables = {name: files.table.model_bytes for name, files in predictor.model.tables.items()}
    if sum(tables.values()) >= MOST_ONNX_BYTES:
        found = ", ".join(f"{name} {size:,} bytes" for name, size in sorted(tables.items()))
        raise ConfigError(
            f"the model's embedding tables do not fit one file of ONNX: {found}",
            f"less than {MOST_ONNX_BYTES:,} bytes together",
            "score with engine torch, which maps the tables' files; `millstream export` puts such "
            "tables beside the model's file",
        )


@cache
def _maker(format_: Format) -> str:
    """Digest of all that an export follows from beside the model: our code, and the exporters."""
    versions = [f"{name} {_version(name)}" for name in ("torch", "onnx", "onnxscript")]
    return digest_of("\n".join([format_, code_digest(), *versions]))


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"
