"""Handwritten digits: which of ten is on an image of 8 x 8 grey pixels?

The files are scikit-learn's bundled digits as PNG, DATE/DIGIT/NUMBER.png (`make digits`).
"""

from __future__ import annotations

from schemas.dataset import Column, Dataset, Source
from schemas.field import Carried, Image, Label

DIGITS = Dataset(
    name="digits",
    sources=(
        Source(
            name="digits",
            format="images",
            columns=(
                Column("file", "string", nullable=False, pattern=r"^[0-9]+\.png$"),
                Column("folder", "string", pattern="^[0-9]$", of_label=True),
                Column("content", "binary", nullable=False),
            ),
        ),
    ),
    rows="digits",
    key=("file",),
    fields=(
        Label("digit", "CAST(folder AS INT)", task="multiclass", classes=10),
        Image("image", "content", shape=(8, 8)),
        Carried("folder"),
    ),
)
