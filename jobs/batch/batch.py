"""A batch: named tensors of one rank's piece of a global batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_COLUMNS = ("dense", "sparse", "label", "weight", "row_id", "is_row", "position")


@dataclass(frozen=True)
class Batch:
    """One rank's piece of a global batch. Padding rows are zeros, of weight 0.

    Attributes:
        dense: float32 [b, D]; NaN where a value is missing.
        sparse: int64 [b, C], ids.
        label: float32 [b]; NaN where it is absent, as in scoring.
        weight: float32 [b]; 1 where the data set declares none.
        row_id: int64 [b].
        is_row: bool [b]; False marks padding.
        position: int64 [b], number of the row in the epoch; -1 for padding.
        tensors: by field name, [b, ...]: float32 of Tensor fields, uint8 of Image fields. A list
            field has two, with zeros behind a list's end: NAME, [b, longest list], float32 or, of a
            CategoricalList, int64; and NAME_length, int64 [b].
    """

    dense: torch.Tensor
    sparse: torch.Tensor
    label: torch.Tensor
    weight: torch.Tensor
    row_id: torch.Tensor
    is_row: torch.Tensor
    position: torch.Tensor
    tensors: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.row_id)

    @property
    def rows(self) -> int:
        """Rows that are not padding."""
        return int(self.is_row.sum())

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; the copy from pinned memory does not wait."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The batch in page-locked memory, from which a GPU copies while it computes."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def __getitem__(self, rows: slice | torch.Tensor) -> Batch:
        return self._mapped(lambda tensor: tensor[rows])

    def cycled(self, rows: int) -> Batch:
        """The rows again and again, `rows` in all."""
        places = torch.arange(rows) % len(self)
        return self._mapped(lambda tensor: tensor[places])

    def repeated_to(self, rows: int) -> Batch:
        """The batch with copies of its first row behind it, `rows` rows in all; or as it is."""
        short = rows - len(self)
        if short <= 0:
            return self
        return self._mapped(lambda t: torch.cat([t, t[:1].expand(short, *t.shape[1:])]))

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in _COLUMNS}
        tensors = {name: change(tensor) for name, tensor in self.tensors.items()}
        return Batch(**changed, tensors=tensors)
