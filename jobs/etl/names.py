"""Columns that every raw row has besides the declared ones."""

from __future__ import annotations

RAW, SOURCE_FILE, REASONS, DS = "raw", "source_file", "reasons", "ds"
UNDATED, SPLIT = "undated", "split"
# Of a line among identical ones of its date, from 1.
ORDINAL = "__ordinal"


def text_column(name: str) -> str:
    """The column that holds a declared column's value as it stands in the file."""
    return f"__{name}"
