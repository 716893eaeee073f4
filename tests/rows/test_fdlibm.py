"""log1p, sin and cos by NumPy have the bits of Java's StrictMath, whatever machine computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs.rows.judge.fdlibm import cos, log1p, sin

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Where log1p takes another way, and what of the high half of a double's bits it looks at.
_BOUNDARIES = (
    *(0.41422, 0.4142135623730951, -0.2929, -0.29289321881345254),
    *(2.0**-29, 2.0**-54, 2.0**53, 2.0**52, 2.0**54, 2.0**-28, 2.0**-53),
    *(float.fromhex("0x1.a827ap-2"), float.fromhex("-0x1.2bec3p-2")),
    *(2**0.5 - 1, 2 * 2**0.5 - 1, 4 * 2**0.5 - 1, 0.5**0.5 - 1),
    *(np.finfo(np.float64).max, np.finfo(np.float64).tiny, 5e-324),
)
# Beyond this sin and cos have no value here.
_LARGEST = 2.0**20 * (math.pi / 2)
# The high halves that sin and cos compare with.
_HALVES = (0x3FE921FB, 0x3FF921FB, 0x4002D97C, 0x413921FB, 0x3E400000, 0x3FD33333, 0x3FE90000)
_OF_TURNS = {"sin": sin, "cos": cos}


def _neighbours(x: float, count: int = 40) -> Iterator[float]:
    """The double and those nearest to it, on both sides."""
    for end in (-math.inf, math.inf):
        y = x
        for _ in range(count):
            yield y
            y = math.nextafter(y, end)


def _around(halves: tuple[int, ...]) -> Doubles:
    """Doubles whose high halves are on both sides of each of these."""
    found = [((high + step) % 2**32) for high in halves for step in (-1, 0, 1)]
    bits = [half << 32 | low for half in found for low in (0, 1, 2**31, 2**32 - 1)]
    return np.array(bits, np.uint64).view(np.float64)


def _of_log() -> Doubles:
    random_ = np.random.default_rng(1)
    near = [y for x in _BOUNDARIES for s in (1, -1) for y in _neighbours(s * x)]
    near += [y for x in (0.0, -0.0, -1.0) for y in _neighbours(x)]
    powers = [2.0**k for k in range(-1074, 1024)]
    # 1 + x is then a power of two, or next to one.
    less = [p - 1 for p in powers if 2.0**-60 < p < 2.0**60]
    around = [y for x in (*powers, *less) for s in (1, -1) for y in _neighbours(s * x, 3)]
    halves = (0x3FDA827A, -0x402D413D & 0xFFFFFFFF, 0x3E200000, 0x3C900000, 0x43400000, 0x3FF00000)
    nearest = random_.integers(-40, 60, 50_000)
    found = np.concatenate(
        [
            np.array([*near, *around]),
            _around(halves),
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


def _of_turns() -> Doubles:
    """Numbers that sin and cos have a value of."""
    random_ = np.random.default_rng(2)
    # Where a remainder is short of bits: the doubles at and about the multiples of pi/2 and pi/4.
    multiples = [k * (math.pi / 4) for k in (*range(200), *range(10_000, 10_020))]
    multiples += [k * (math.pi / 2) for k in random_.integers(200, 2**20, 1000).tolist()]
    near = [y for x in multiples for y in _neighbours(x, 4)]
    wide = [k * (math.pi / 2) * (1 + 2.0**-e) for k in range(1, 70) for e in range(8, 53)]
    few = [0.0, 5e-324, np.finfo(np.float64).tiny, *(2.0**-k for k in range(1, 80))]
    found = np.concatenate(
        [
            np.array([*near, *wide, *few]),
            np.abs(_around(_HALVES)),
            # Parts of a turn, as times of the day and of the week are given.
            2 * math.pi * np.arange(1440) / 1440,
            2 * math.pi * np.arange(366) / 365.25,
            random_.uniform(0, 2 * math.pi, 20_000),
            random_.uniform(0, 60, 5_000),
            random_.uniform(0, _LARGEST, 5_000),
            10.0 ** random_.uniform(-12, 5, 5_000),
        ]
    )
    found = found[found <= _LARGEST]
    return np.concatenate([found, -found]).astype(np.float64)


def _differing(x: Doubles, found: Doubles, expected: Doubles) -> list[tuple[str, str, str]]:
    """Where the bits differ: of, found, expected."""
    differ = found.view(np.int64) != expected.view(np.int64)
    cases = zip(x[differ], found[differ], expected[differ], strict=True)
    return [(a.hex(), b.hex(), c.hex()) for a, b, c in cases]


@pytest.fixture(scope="module")
def sparks(spark: SparkSession) -> tuple[Doubles, Doubles, Bools]:
    """Numbers, their log1p by Spark, and where that is null."""
    rows = spark.createDataFrame(pa.table({"x": _of_log()}))
    found = rows.selectExpr("x", "log1p(x) AS y").toArrow()
    null = np.asarray(found["y"].is_null())
    return found["x"].to_numpy(), found["y"].fill_null(np.nan).to_numpy(), null


@pytest.fixture(scope="module")
def javas(spark: SparkSession) -> tuple[Doubles, dict[str, Doubles]]:
    """Numbers, and their sine and cosine by Java's StrictMath."""
    rows = spark.createDataFrame(pa.table({"x": _of_turns()}))
    # As texts, each of which stands for one double.
    named = [f"double(reflect('java.lang.StrictMath', '{f}', x)) AS {f}" for f in _OF_TURNS]
    found = rows.selectExpr("x", *named).toArrow()
    return found["x"].to_numpy(), {name: found[name].to_numpy() for name in _OF_TURNS}


def test_every_number_has_sparks_bits(sparks: tuple[Doubles, Doubles, Bools]) -> None:
    x, expected, null = sparks
    assert len(x) > 600_000 and np.isnan(x).any() and np.isinf(x).sum() >= 2
    found = log1p(x)
    assert found.dtype == np.float64
    no_number = np.isnan(x)
    of = ~null & ~no_number
    assert _differing(x[of], found[of], expected[of]) == []
    assert np.isnan(found[no_number]).all() and np.isnan(expected[no_number]).all()


def test_what_spark_has_no_value_for_is_no_finite_number(
    sparks: tuple[Doubles, Doubles, Bools],
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
    sparks: tuple[Doubles, Doubles, Bools], data: st.DataObject
) -> None:
    x, expected, null = sparks
    places = data.draw(st.lists(st.integers(0, len(x) - 1), max_size=9))
    known = [place for place in places if not null[place] and x[place] == x[place]]
    found = log1p(x[places])
    of_known = found[[place in known for place in places]]
    assert of_known.tobytes() == expected[known].tobytes()


@pytest.mark.parametrize("name", _OF_TURNS)
def test_sines_and_cosines_have_javas_bits(
    javas: tuple[Doubles, dict[str, Doubles]], name: str
) -> None:
    x, expected = javas
    assert len(x) > 70_000 and (x == 0).sum() >= 2
    found = _OF_TURNS[name](x)
    assert found.dtype == np.float64
    assert _differing(x, found, expected[name]) == []


@pytest.mark.parametrize("name", _OF_TURNS)
def test_java_called_for_each_number_says_the_same(spark: SparkSession, name: str) -> None:
    x = np.concatenate([_of_turns()[::400], [0.0, -0.0]])
    java = getattr(spark._jvm.java.lang.StrictMath, name)
    expected = np.array([java(float(value)) for value in x])
    assert len(x) > 150 and _differing(x, _OF_TURNS[name](x), expected) == []


@given(st.lists(st.floats(-_LARGEST, _LARGEST), max_size=9), st.data())
def test_sines_and_cosines_are_next_to_the_exact_ones(x: list[float], data: st.DataObject) -> None:
    x += data.draw(st.lists(st.floats(-2 * math.pi, 2 * math.pi), max_size=9))
    by_math: tuple[tuple[Callable[[Doubles], Doubles], Callable[[float], float]], ...]
    by_math = ((sin, math.sin), (cos, math.cos))
    for of, exact in by_math:
        for value, found in zip(x, of(np.array(x, np.float64)).tolist(), strict=True):
            expected = exact(value)
            assert abs(found - expected) <= math.ulp(expected), (value.hex(), found, expected)
            assert of(np.array([value])).tolist() == [found]


@pytest.mark.parametrize("name", _OF_TURNS)
def test_what_is_no_number_or_too_large_has_no_sine(name: str) -> None:
    beyond = [math.inf, math.nan, 1647101.0, 2.0**21, 2.0**31, 2.0**63, 1e300]
    of = _OF_TURNS[name]
    assert np.isnan(of(np.array([*beyond, *(-x for x in beyond)]))).all()
    assert np.isfinite(of(np.array([_LARGEST, -_LARGEST]))).all()
    assert of(np.zeros(0)).tolist() == []
