"""Criteo's click logs: does a shown advertisement get clicked?

The public format: a label, 13 integers and 26 hexadecimal strings, separated by tabs, without a
header; a file a day. A line has no key: it is its own.
"""

from __future__ import annotations

from schemas.dataset import Column, Dataset, Source
from schemas.field import Categorical, Clip, Label, Log1p, Numeric

INTEGERS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))

CRITEO = Dataset(
    name="criteo",
    sources=(
        Source(
            "criteo",
            delimiter="\t",
            header=False,
            columns=(
                Column("label", "int", allowed=(0, 1), of_label=True),
                *[Column(name, "int") for name in INTEGERS],
                *[Column(name, "string", pattern="^[0-9a-f]{8}$") for name in CATEGORIES],
            ),
        ),
    ),
    rows="criteo",
    key=(),
    fields=(
        Label("clicked", "label"),
        # Counts, a few of them -1 to -3: logarithms of what is above 0.
        *[Numeric(f"{name}_log", name, (Clip(0, 2**31), Log1p())) for name in INTEGERS],
        *[Categorical(f"{name}_id", name, min_count=10, oov_buckets=8) for name in CATEGORIES],
    ),
)
