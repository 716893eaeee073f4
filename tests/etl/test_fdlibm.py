"""log1p by NumPy has the bits of Spark's, so that a value is one whichever of them computed it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs.etl.fdlibm import log1p

Doubles = npt.NDArray[np.float64]

# Where the algorithm takes another way, and what of the high half of a double's bits it looks at.
_BOUNDARIES = (
    *(0.41422, 0.4142135623730951, -0.2929, -0.29289321881345254),
    *(2.0**-29, 2.0**-54, 2.0**53, 2.0**52, 2.0**54, 2.0**-28, 2.0**-53),
    *(float.fromhex("0x1.a827ap-2"), float.fromhex("-0x1.2bec3p-2")),
    *(2**0.5 - 1, 2 * 2**0.5 - 1, 4 * 2**0.5 - 1, 0.5**0.5 - 1),
    *(np.finfo(np.float64).max, np.finfo(np.float64).tiny, 5e-324),
)


def _neighbours(x: float, count: int = 40) -> Iterator[float]:
    """The double and those nearest to it, on both sides."""
    for end in (-math.inf, math.inf):
        y = x
        for _ in range(count):
            yield y
            y = math.nextafter(y, end)


def _inputs() -> Doubles:
    random_ = np.random.default_rng(1)
    near = [y for x in _BOUNDARIES for s in (1, -1) for y in _neighbours(s * x)]
    near += [y for x in (0.0, -0.0, -1.0) for y in _neighbours(x)]
    powers = [2.0**k for k in range(-1074, 1024)]
    # 1 + x is then a power of two, or next to one.
    less = [p - 1 for p in powers if 2.0**-60 < p < 2.0**60]
    around = [y for x in (*powers, *less) for s in (1, -1) for y in _neighbours(s * x, 3)]
    # High halves on both sides of each bound that the algorithm compares them with.
    bounds = (0x3FDA827A, -0x402D413D & 0xFFFFFFFF, 0x3E200000, 0x3C900000, 0x43400000, 0x3FF00000)
    halves = [((high + step) % 2**32) for high in bounds for step in (-1, 0, 1)]
    bits = [half << 32 | low for half in halves for low in (0, 1, 2**31, 2**32 - 1)]
    nearest = random_.integers(-40, 60, 50_000)
    found = np.concatenate(
        [
            np.array([*near, *around]),
            np.array(bits, np.uint64).view(np.float64),
            # All bit patterns alike, so all magnitudes; then those that data has.
            random_.integers(0, 2**64, 100_000, np.uint64).view(np.float64),
            random_.uniform(-1, 1, 100_000),
            random_.uniform(-0.3, 0.42, 100_000),
            random_.uniform(0, 1e6, 50_000),
            10.0 ** random_.uniform(-20, 20, 100_000),
            -(10.0 ** random_.uniform(-20, 0, 50_000)),
            # So near to a power of two that a shorter polynomial is taken.
            np.ldexp(1 + random_.uniform(-(2.0**-20), 2.0**-20, 50_000), nearest) - 1,
            np.arange(-3, 70_000, dtype=np.float64),
            random_.integers(-3, 2**31, 50_000).astype(np.float64),
            random_.integers(0, 2**63, 50_000).astype(np.float64),
            np.arange(-400, 40_000) / 100,
            np.array([np.inf, -np.inf, np.nan]),
        ]
    )
    return found.astype(np.float64)


@pytest.fixture(scope="module")
def sparks(spark: SparkSession) -> tuple[Doubles, Doubles, npt.NDArray[np.bool_]]:
    """Numbers, their log1p by Spark, and where that is null."""
    rows = spark.createDataFrame(pa.table({"x": _inputs()}))
    found = rows.selectExpr("x", "log1p(x) AS y").toArrow()
    null = np.asarray(found["y"].is_null())
    return found["x"].to_numpy(), found["y"].fill_null(np.nan).to_numpy(), null


def test_every_number_has_sparks_bits(
    sparks: tuple[Doubles, Doubles, npt.NDArray[np.bool_]],
) -> None:
    x, expected, null = sparks
    assert len(x) > 600_000 and np.isnan(x).any() and np.isinf(x).sum() >= 2
    found = log1p(x)
    assert found.dtype == np.float64
    no_number = np.isnan(x)
    differ = ~null & ~no_number & (found.view(np.int64) != expected.view(np.int64))
    cases = zip(x[differ], found[differ], expected[differ], strict=True)
    assert [(a.hex(), b.hex(), c.hex()) for a, b, c in cases] == []
    assert np.isnan(found[no_number]).all() and np.isnan(expected[no_number]).all()


def test_what_spark_has_no_value_for_is_no_finite_number(
    sparks: tuple[Doubles, Doubles, npt.NDArray[np.bool_]],
) -> None:
    x, _, null = sparks
    found = log1p(x)
    # Nulls and only they: -1 and below. The infinity at -1 stays apart from no number.
    assert np.array_equal(null, x <= -1) and null.sum() > 1000
    assert np.isneginf(found[x == -1]).all() and (x == -1).any()
    assert np.isnan(found[x < -1]).all()
    assert np.isfinite(found[~null & ~np.isnan(x) & ~np.isposinf(x)]).all()


@given(st.data())
def test_a_number_has_its_value_whatever_stands_beside_it(
    sparks: tuple[Doubles, Doubles, npt.NDArray[np.bool_]], data: st.DataObject
) -> None:
    x, expected, null = sparks
    places = data.draw(st.lists(st.integers(0, len(x) - 1), max_size=9))
    known = [place for place in places if not null[place] and x[place] == x[place]]
    found = log1p(x[places])
    of_known = found[[place in known for place in places]]
    assert of_known.tobytes() == expected[known].tobytes()
