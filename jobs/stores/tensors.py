"""Files of safetensors as large as a disk: written from tensors in place, mapped when read.

The library copies what it writes, and maps files so that the system counts them as memory that may
be needed: one larger than the host's would be refused.
"""

from __future__ import annotations

import json
import math
import mmap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
_LENGTH, _ALIGNED = 8, 8
_CHUNK = 16 << 20

Shapes = Mapping[str, tuple[torch.dtype, Sequence[int]]]


class Torn(Exception):
    """A file is not the one that was written; the message says how."""


def header_of(shapes: Shapes, metadata: Mapping[str, str]) -> bytes:
    """What a file begins with; the same for the same tensors' dtypes and shapes."""
    tree: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, (dtype, shape) in sorted(shapes.items()):
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        tree[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(_LENGTH, "little") + text


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor that is contiguous and on the CPU, without a copy."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def write_tensors(file: IO[bytes], tensors: Mapping[str, Tensor], header: bytes) -> None:
    """Writes tensors, which are contiguous and on the CPU, after their `header_of`."""
    file.write(header)
    for _, tensor in sorted(tensors.items()):
        content = bytes_of(tensor)
        for begin in range(0, len(content), _CHUNK):
            file.write(content[begin : begin + _CHUNK])


def mapped(path: Path, header: bytes) -> dict[str, Tensor]:
    """The tensors of a file, to be read only: they are the file's own pages, shared by processes.

    Args:
        header: that the file must have.

    Raises:
        Torn: it is missing, of another size, or has another header.
    """
    tree = json.loads(header[_LENGTH:])
    places = {name: of for name, of in tree.items() if name != "__metadata__"}
    size = len(header) + max((of["data_offsets"][1] for of in places.values()), default=0)
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise Torn(f"{path.name} is missing") from error
    if found != size:
        raise Torn(f"{path.name} has {found} bytes, was written with {size}")
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            raise Torn(f"{path.name} has another header than it was written with")
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # A row is some bytes of a page: what stands around it would fill the memory in vain.
    pages.madvise(mmap.MADV_RANDOM)
    return {name: _tensor(pages, len(header), of) for name, of in places.items()}


def _tensor(pages: mmap.mmap, first: int, place: Mapping[str, Any]) -> Tensor:
    dtype, shape = _DTYPES[place["dtype"]], place["shape"]
    if not math.prod(shape):
        return torch.empty(shape, dtype=dtype)
    with warnings.catch_warnings():
        # That it cannot be written to is wanted.
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        flat = torch.frombuffer(
            pages, dtype=dtype, count=math.prod(shape), offset=first + place["data_offsets"][0]
        )
    return flat.view(shape)
