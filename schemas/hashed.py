"""Categorical fields without a vocabulary: the id follows from the value alone.

Their tables have a fixed size and nothing is fitted, so a value never seen has an id as good as any
other, and a model serves for any state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from operator import lt

from schemas.field import Categorical


@dataclass(frozen=True)
class Hashed(Categorical):
    """An id by hash, into `oov_buckets` of them; null keeps its own."""

    max_size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_size:
            raise ValueError(f"Hashed {self.name!r}: max_size is {self.max_size}; it must be 0")


@dataclass(frozen=True)
class Bucketized(Categorical):
    """A number's place among ascending `boundaries`: 0 below the first, 1 from the first on, ...

    `expr` gives the number; null keeps its own id, and NaN, which lies nowhere, is null.
    """

    max_size: int = 0
    boundaries: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        numbers = all(isinstance(b, Real) and math.isfinite(b) for b in self.boundaries)
        if (
            not self.boundaries
            or not numbers
            or not all(map(lt, self.boundaries, self.boundaries[1:]))
        ):
            raise ValueError(
                f"Bucketized {self.name!r}: boundaries are {self.boundaries}; they must be numbers "
                "that ascend"
            )
        # As many as there are buckets, so that the table's size is that of any hashed field.
        object.__setattr__(self, "oov_buckets", len(self.boundaries) + 1)
        super().__post_init__()
