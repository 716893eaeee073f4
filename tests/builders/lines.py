"""A small data set without a key: lines of numbers and hexadecimal texts, a file a day."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from schemas.dataset import Column, Dataset, Source
from schemas.field import Categorical, Label, Log1p, Numeric

_HEX = "^[0-9a-f]{4}$"

LINES = Dataset(
    name="lines",
    sources=(
        Source(
            "lines",
            delimiter="\t",
            header=False,
            columns=(
                Column("label", "int", allowed=(0, 1), of_label=True),
                Column("count", "int"),
                Column("user", "bigint"),
                Column("a", "string", pattern=_HEX),
                Column("b", "string", pattern=_HEX),
            ),
        ),
    ),
    rows="lines",
    key=(),
    fields=(
        Label("clicked", "label"),
        Numeric("count_log", "count", (Log1p(),)),
        Categorical("user_id", "user", oov_buckets=2),
        Categorical("a_id", "a", oov_buckets=2),
        Categorical("b_id", "b", oov_buckets=2),
    ),
)


def lines_of(count: int) -> list[str]:
    """Sound lines, all different; users lie beyond what float32 tells apart."""
    return [
        f"{i % 2}\t{i}\t{2**24 + i % 4}\t{i * 31 % 65536:04x}\t{i % 7:04x}" for i in range(count)
    ]


def write_lines(folder: Path, ds: str, files: Sequence[Sequence[str]]) -> Path:
    """Writes the files of a day and the settings; returns the settings' path."""
    raw = folder / f"day_{ds}"
    raw.mkdir(parents=True, exist_ok=True)
    for number, lines in enumerate(files):
        (raw / f"{number}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tree: dict[str, Any] = {
        "schema": "tests.builders.lines:LINES",
        "lake": "lake",
        "etl": {"sources": {"lines": "day_{ds}"}, "max_quarantined_fraction": 1.0},
    }
    config = folder / "lines.yaml"
    config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return config
