"""The engine and a judge by hand agree on every line of the hostile declarations, row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.rows.judge.judged import Judged
from schemas.dataset import Column, Dataset
from schemas.field import Log1p, Numeric
from tests.builders.hostile import write_files
from tests.builders.hostile_declarations import (
    ALL_TYPES,
    BARE,
    CLICKS,
    KEYED,
    OF_LABEL,
    ONE_COLUMN,
    RULED_TEXTS,
    RULES,
    ruled,
)
from tests.rows.engines import WHOLE, judged
from tests.rows.oracle import Row, rows_of

CASES = {
    "clicks": (CLICKS, True),
    "all_types": (ALL_TYPES, True),
    "all_types_scored": (ALL_TYPES, False),
    "bare": (BARE, True),
    "one_column": (ONE_COLUMN, True),
    "keyed": (KEYED, True),
}


def assert_agree(found: Judged, rows: Sequence[tuple[str, Row]], dataset: Dataset) -> None:
    """Args: rows: with their files."""
    refused = [(r.raw, r.reasons, file, r.ds) for file, r in rows if r.reasons]
    got = [(r["raw"], r["reasons"], r["source_file"], r["ds"]) for r in found.refused.to_pylist()]
    wrong = [(a, b) for a, b in zip(got, refused, strict=False) if a != b]
    assert [(a[0][:200], a[1], b[0][:200], b[1]) for a, b in wrong[:3]] == []
    assert len(got) == len(refused)
    valid = [row for _, row in rows if not row.reasons]
    assert found.valid.num_rows == len(valid)
    assert found.valid["ds"].to_pylist() == [row.ds for row in valid]
    for place, name in enumerate(dataset.key):
        keys = found.valid[name].to_pylist()
        assert keys == [_bare(row.key[place]) for row in valid]
    for f in dataset.fields:
        expected = [_bare(row.values[f.name]) for row in valid]
        logs = isinstance(f, Numeric) and sum(isinstance(t, Log1p) for t in f.transforms)
        values = found.valid[f.name].to_pylist()
        cases = zip(valid, values, expected, strict=True)
        bits = (0, 1, 1 << 16)[int(logs)]
        differ = [(r.raw[:300], a, b) for r, a, b in cases if not _same(a, b, bits)]
        assert (f.name, differ[:5]) == (f.name, [])


def _bare(value: Any) -> Any:
    return value.replace(tzinfo=None) if getattr(value, "tzinfo", None) else value


def _same(a: Any, b: Any, last_bits: int) -> bool:
    """With the same bits, but for so many of the last place: of a logarithm one, of a logarithm's
    near its pole many."""
    if not isinstance(a, float) or not isinstance(b, float):
        return type(a) is type(b) and a == b
    if a == b:
        return math.copysign(1, a) == math.copysign(1, b)
    return abs(a - b) <= last_bits * float(np.spacing(np.float32(abs(b))))


@pytest.mark.parametrize("case", CASES)
def test_every_hostile_line_is_judged_as_by_hand(case: str, tmp_path: Path) -> None:
    hostile, with_label = CASES[case]
    sound, lines = hostile.sound_lines(300), hostile.hostile_lines(1000)
    folder = tmp_path / "raw"
    write_files(folder, hostile, [[*lines[::2], *sound[:200]], [*sound[200:], *lines[1::2]]])
    files = sorted(folder.iterdir())
    rows = [
        (str(file), row)
        for file in files
        for row in rows_of(file.read_bytes(), hostile.dataset, with_label)
    ]
    assert sum(bool(row.reasons) for _, row in rows) > 100
    assert sum(not row.reasons for _, row in rows) > 300
    dates = ("2026-01-01", "2026-01-02", "undated") if hostile.dataset.ds else ("",)
    asked = [(file, row) for file, row in rows if row.ds in dates]
    for piece_bytes in (WHOLE, 4_000):
        found = judged(
            hostile.dataset, folder, *dates[:2], piece_bytes=piece_bytes, with_label=with_label
        )
        assert_agree(found, asked, hostile.dataset)
        assert found.others == len(rows) - len(asked)


@pytest.mark.parametrize(("columns", "with_label"), [(RULES, True), (OF_LABEL, False)])
def test_each_rule_means_what_it_says(
    columns: Sequence[Column], with_label: bool, tmp_path: Path
) -> None:
    dataset = ruled(columns)
    lines = []
    for i in range(len(columns)):
        for j, text in enumerate(RULED_TEXTS):
            cells = ["1", f"{i}/{j}", *[""] * len(columns)]
            cells[2 + i] = f'"{text}"' if "," in text else text
            lines.append(",".join(cells))
    file = tmp_path / "0.csv"
    file.write_text("\n".join(lines), encoding="utf-8")
    rows = rows_of(file.read_bytes(), dataset, with_label)
    broken = {reason.split(":")[0] for row in rows for reason in row.reasons}
    # A number may be too large for what is stored, whichever rules apply.
    assert with_label == bool(broken - {"not_finite"})
    found = judged(dataset, file, with_label=with_label)
    assert_agree(found, [(str(file), row) for row in rows], dataset)
