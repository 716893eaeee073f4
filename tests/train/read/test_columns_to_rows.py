"""Columns side by side: every value at its place, whatever the sizes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.train.read.columns_to_rows import ColumnsToRows
from jobs.train.read.memory import CHUNK_BYTES


def parts_of(widths: list[int], rows: int) -> tuple[list[tuple[slice, np.ndarray]], np.ndarray]:
    whole = np.arange(rows * sum(widths), dtype=np.int32).reshape(rows, sum(widths))
    parts, first = [], 0
    for width in widths:
        # A column of its own, as Arrow decodes it.
        parts.append((slice(first, first + width), whole[:, first : first + width].copy()))
        first += width
    return parts, whole


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([1, 2, 3, 17]), min_size=1, max_size=9), max_size=3))
def test_parts_come_side_by_side_again_and_again(tables: list[list[int]]) -> None:
    columns_to_rows = ColumnsToRows()
    for rows, widths in enumerate(tables):
        parts, whole = parts_of(widths, 40 * rows)
        written = np.zeros_like(whole)

        columns_to_rows.write(parts, written)

        np.testing.assert_array_equal(written, whole)


def test_more_rows_than_fit_at_once() -> None:
    parts, whole = parts_of([2, 1, 1, 1, 5], CHUNK_BYTES // 16 + 7)
    written = np.zeros_like(whole)

    ColumnsToRows().write(parts, written)

    np.testing.assert_array_equal(written, whole)


def test_rows_that_are_part_of_a_larger_matrix() -> None:
    """Windows are parts of one piece of memory; what lies around them stays."""
    parts, whole = parts_of([2, 1, 1, 3], 50)
    memory = np.full((70, whole.shape[1]), -1, np.int32)

    ColumnsToRows().write(parts, memory[13:63])

    np.testing.assert_array_equal(memory[13:63], whole)
    assert (memory[:13] == -1).all()
    assert (memory[63:] == -1).all()
