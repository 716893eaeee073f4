"""Room for copies of tables: a rank's memory, or its disk.

On disk a tensor is a file without a name in the temporary folder, mapped to be shared. So its pages
belong to the file: the system writes them out and takes them back when it needs the memory, and
the disk is free again as soon as the tensor, or its process, is gone, however that ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.base.errors import ConfigError
from jobs.settings.train import TrainSettings

# Rows of tables are made, read and copied so many bytes at a time.
_PART_BYTES = 4 << 20


@dataclass(frozen=True)
class Room:
    """Makes tensors, on the CPU.

    Attributes:
        is_disk: whether they are files.
    """

    is_disk: bool = False

    @classmethod
    def of(cls, settings: TrainSettings) -> Room:
        return cls(settings.table_copies == "disk")

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """
        Raises:
            ConfigError: the disk has no room.
        """
        size = torch.Size(shape).numel() * dtype.itemsize
        if self.is_disk and size:
            return _file_of(size).view(dtype).view(*shape)
        return torch.zeros(*shape, dtype=dtype)

    def zeros_like(self, tensors: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
        """For each tensor [any, ...], one [rows, ...] of zeros."""
        return {key: self.zeros((rows, *of.shape[1:]), of.dtype) for key, of in tensors.items()}

    def rows_at(self, tensors: Mapping[str, Tensor], places: Tensor) -> dict[str, Tensor]:
        """Copies of some rows, int64 [k] `places`, of tensors [rows, ...] on the CPU."""
        return {name: self._rows_of(tensor, places) for name, tensor in tensors.items()}

    def _rows_of(self, tensor: Tensor, places: Tensor) -> Tensor:
        found = self.zeros((len(places), *tensor.shape[1:]), tensor.dtype)
        step = rows_in_part(tensor)
        for some, target in zip(torch.split(places, step), torch.split(found, step), strict=True):
            target.copy_(tensor.index_select(0, some))
        return found


MEMORY = Room()


def rows_in_part(tensor: Tensor) -> int:
    """How many rows of a tensor [rows, ...] are handled at a time; one at least."""
    return max(1, _PART_BYTES // max(1, tensor.itemsize * tensor.shape[1:].numel()))


def _file_of(size: int) -> Tensor:
    """Bytes of zeros, uint8 [size]."""
    with tempfile.TemporaryFile() as file:
        try:
            # Now: to write to a mapped page for which the disk has no room ends the process.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise ConfigError(
                f"{tempfile.gettempdir()} has no room for {-(-size >> 20):,} MB of a rank's copies "
                f"of tables: {error.strerror}",
                "room for two pieces of the tables and their moments for each rank of a host",
                "point TMPDIR of the ranks at a larger disk, or set train.table_copies to memory",
            ) from error
        path = f"/proc/self/fd/{file.fileno()}"
        return torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
