"""Raw rows whose ids are nearly all different, so that few rows make tables of many.

Of a row's fields each has a value that few other rows have; the label follows from a number.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from schemas.dataset import Column, Dataset, Source
from schemas.field import Categorical, Label, Numeric

FIELDS = 8
_NAMES = [f"c{number}" for number in range(FIELDS)]

WIDE = Dataset(
    name="wide",
    sources=(
        Source(
            "wide",
            columns=(
                Column("row", "int", nullable=False),
                Column("clicked", "int", allowed=(0, 1), of_label=True),
                Column("shown", "double"),
                *[Column(name, "string") for name in _NAMES],
            ),
        ),
    ),
    rows="wide",
    key=("row",),
    fields=(
        Label("label", "clicked"),
        Numeric("shown"),
        *[Categorical(f"{name}_id", name, min_count=1) for name in _NAMES],
    ),
)


def write_day(path: Path, rows: int, values: int, seed: int) -> None:
    """Writes a file of rows, with so many values of each field."""
    draw = np.random.default_rng(seed)
    shown = draw.normal(size=rows)
    clicked = (draw.random(rows) < 1 / (1 + np.exp(-2 * shown))).astype(int)
    orders = [draw.permutation(rows) % values for _ in _NAMES]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.write(",".join(["row", "clicked", "shown", *_NAMES]) + "\n")
        for number in range(rows):
            ids = ",".join(f"{order[number]:x}" for order in orders)
            file.write(f"{number},{clicked[number]},{shown[number]:.4f},{ids}\n")
