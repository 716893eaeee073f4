"""ln(1 + x), sine and cosine by NumPy with the bits of fdlibm, on every machine.

They are the bits of Java's StrictMath, which is what Spark's `log1p` calls. Spark's `sin` and `cos`
call Java's Math, whose last bit may be another, as NumPy's may, by the processor. The steps are
those of fdlibm 5.3 (https://netlib.org/fdlibm: s_log1p.c, s_sin.c, s_cos.c, k_sin.c, k_cos.c and
e_rem_pio2.c), each one correctly rounded as IEEE 754 says.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LOG = (
    1.479819860511658591e-01,
    1.531383769920937332e-01,
    1.818357216161805012e-01,
    2.222219843214978396e-01,
    2.857142874366239149e-01,
    3.999999999940941908e-01,
    6.666666666666735130e-01,
)

# The polynomials, from the highest power down; the sine's last coefficient stands apart.
_SINE = (
    1.58969099521155010221e-10,
    -2.50507602534068634195e-08,
    2.75573137070700676789e-06,
    -1.98412698298579493134e-04,
    8.33333333332248946124e-03,
)
_SINE_LAST = -1.66666666666666324348e-01
_COSINE = (
    -1.13596475577881948265e-11,
    2.08757232129817482790e-09,
    -2.75573143513906633035e-07,
    2.48015872894767294178e-05,
    -1.38888888888741095749e-03,
    4.16666666666666019037e-02,
)
_TWO_BY_PI = 6.36619772367581382433e-01
# Pi/2 by three leading parts of 33 bits, each with the rest of 53 bits after it.
_PI_BY_2 = (
    (1.57079632673412561417e00, 6.07710050650619224932e-11),
    (6.07710050630396597660e-11, 2.02226624879595063154e-21),
    (2.02226624871116645580e-21, 8.47842766036889956997e-32),
)
# High halves of doubles: of pi/4, pi/2, 3 pi/4 and 2^20 pi/2, and of the multiples of pi/2 from 1.
_QUARTER, _HALF, _THREE_QUARTERS, _LARGEST = 0x3FE921FB, 0x3FF921FB, 0x4002D97C, 0x413921FB
_MULTIPLES = (np.arange(1, 32) * (np.pi / 2)).view(np.int64) >> 32


def log1p(x: Doubles) -> Doubles:
    """ln(1 + x) of each x [n]; NaN below -1, minus infinity of -1."""
    with np.errstate(all="ignore"):
        high = (x.view(np.int64) >> 32).astype(np.int32)
        # From -0.2929 to 0.41422 the logarithm is that of 1 + f itself.
        near = ((high > 0) | (high <= np.int32(-0x402D413D))) & (high < 0x3FDA827A)
        f, k, c, mantissa = _reduced(x, near)
        found = _logarithm(f, k, c, mantissa)
        size = high & 0x7FFFFFFF
        tiny = size < 0x3E200000
        found = np.where(tiny, np.where(size < 0x3C900000, x, x - x * x * 0.5), found)
        found = np.where(x < -1, np.nan, np.where(x == -1, -np.inf, found))
        return np.where(np.isposinf(x) | np.isnan(x), x, found)


def _reduced(x: Doubles, near: Bools) -> tuple[Doubles, Doubles, Doubles, Ints]:
    """f, k and c with 1 + x = 2^k (1 + f) and c the rounding that is to be made good."""
    u = np.where(x < 2.0**53, 1.0 + x, x)
    bits = u.view(np.int64)
    k = (bits >> 52) - 1023
    c = np.where(k > 0, 1.0 - (u - x), x - (u - 1.0)) / u
    c = np.where(x < 2.0**53, c, 0.0)
    mantissa = (bits >> 32) & 0x000FFFFF
    low = bits & 0xFFFFFFFF
    upper = mantissa >= 0x6A09E
    k = k + upper
    exponent = np.where(upper, 0x3FE00000, 0x3FF00000)
    f = (((mantissa | exponent) << 32) | low).view(np.float64) - 1.0
    mantissa = np.where(upper, (0x00100000 - mantissa) >> 2, mantissa)
    return (
        np.where(near, x, f),
        np.where(near, 0.0, k),
        np.where(near, 0.0, c),
        np.where(near, 1, mantissa),
    )


def _logarithm(f: Doubles, k: Doubles, c: Doubles, mantissa: Ints) -> Doubles:
    half_square = 0.5 * f * f
    s = f / (2.0 + f)
    z = s * s
    r = z * _polynomial(_LOG, z)
    rest = k * _LN2_LOW + c
    of_one = f - (half_square - s * (half_square + r))
    found = np.where(
        k == 0, of_one, k * _LN2_HIGH - ((half_square - (s * (half_square + r) + rest)) - f)
    )
    # Where 1 + f is a power of two but for its low bits, a shorter polynomial is exact enough.
    short = half_square * (1.0 - 0.66666666666666666 * f)
    by_short = np.where(k == 0, f - short, k * _LN2_HIGH - ((short - rest) - f))
    by_short = np.where(f == 0, np.where(k == 0, 0.0, k * _LN2_HIGH + (c + k * _LN2_LOW)), by_short)
    return np.where(mantissa == 0, by_short, found)


def sin(x: Doubles) -> Doubles:
    """The sine of each x [n]; NaN beyond 2^20 pi/2, which callers reduce first."""
    return _turned(x, 0)


def cos(x: Doubles) -> Doubles:
    """The cosine of each x [n]; NaN beyond 2^20 pi/2, which callers reduce first."""
    return _turned(x, 1)


def _turned(x: Doubles, quarters: int) -> Doubles:
    """The sine of x and so many quarters of a turn."""
    with np.errstate(all="ignore"):
        size = _high(x) & 0x7FFFFFFF
        n, y, rest = _remainder(np.abs(x), size)
        # What is below zero has the remainder of its opposite, turned round.
        below = x < 0
        n, y, rest = (np.where(below, -z, z) for z in (n, y, rest))
        small = size <= _QUARTER
        turn = (np.where(small, 0, n) + quarters) & 3
        y, rest = np.where(small, x, y), np.where(small, 0.0, rest)
        found = np.where(turn & 1, _cosine(y, rest), _sine(y, rest, small))
        found = np.where(turn & 2, -found, found)
        return np.where(size <= _LARGEST, found, np.nan)


def _remainder(x: Doubles, size: Ints) -> tuple[Ints, Doubles, Doubles]:
    """n, y and the rounding of y with x = n pi/2 + y, for x from pi/4.

    Args:
        x: none below zero [n].
        size: the high halves of x.
    """
    near = size < _THREE_QUARTERS
    count = np.where(near, 1.0, np.floor(x * _TWO_BY_PI + 0.5))
    count = np.where(size <= _LARGEST, count, 0.0)
    n = count.astype(np.int64)
    head, tail = _PI_BY_2[0]
    r, w = x - count * head, count * tail
    y = r - w
    # Where y is short of bits, another part of pi/2 is taken off. Which are short is found by the
    # exponents, except that up to 3 pi/4 and in high halves of no multiple it is known.
    lost = (size >> 20) - _exponent(y)
    multiple = _MULTIPLES[np.clip(n, 1, len(_MULTIPLES)) - 1]
    doubtful = (n > len(_MULTIPLES)) | (size == multiple)
    second = np.where(near, size == _HALF, doubtful & (lost > 16))
    r, w, y = _finer(second, 1, count, r, w, y)
    third = ~near & second & ((size >> 20) - _exponent(y) > 49)
    r, w, y = _finer(third, 2, count, r, w, y)
    return n, y, (r - y) - w


def _finer(
    chosen: Bools, part: int, count: Doubles, r: Doubles, w: Doubles, y: Doubles
) -> tuple[Doubles, Doubles, Doubles]:
    """The remainder r - w and its rounding y, less a part of pi/2 where chosen."""
    head, tail = _PI_BY_2[part]
    less = count * head
    finer_r = r - less
    finer_w = count * tail - ((r - finer_r) - less)
    return (
        np.where(chosen, finer_r, r),
        np.where(chosen, finer_w, w),
        np.where(chosen, finer_r - finer_w, y),
    )


def _sine(x: Doubles, rest: Doubles, whole: Bools) -> Doubles:
    """The sine of x + rest, |x| up to pi/4; `whole` says where there is no rest."""
    z = x * x
    v = z * x
    r = _polynomial(_SINE, z)
    found = np.where(
        whole,
        x + v * (_SINE_LAST + z * r),
        x - ((z * (0.5 * rest - v * r) - rest) - v * _SINE_LAST),
    )
    return np.where(np.abs(x) < 2.0**-27, x, found)


def _cosine(x: Doubles, rest: Doubles) -> Doubles:
    """The cosine of x + rest, |x| up to pi/4."""
    size = _high(x) & 0x7FFFFFFF
    z = x * x
    r = z * _polynomial(_COSINE, z)
    # About x/4, of few bits, so that 1 less it is exact; none below 0.3.
    quarter = ((size - 0x00200000) << 32).view(np.float64)
    quarter = np.where(size > 0x3FE90000, 0.28125, quarter)
    quarter = np.where(size < 0x3FD33333, 0.0, quarter)
    found = (1.0 - quarter) - ((0.5 * z - quarter) - (z * r - x * rest))
    return np.where(np.abs(x) < 2.0**-27, 1.0, found)


def _polynomial(coefficients: tuple[float, ...], z: Doubles) -> Doubles:
    found = np.full_like(z, coefficients[0])
    for coefficient in coefficients[1:]:
        found = coefficient + z * found
    return found


def _high(x: Doubles) -> Ints:
    """The high half of each double, signed."""
    return x.view(np.int64) >> 32


def _exponent(x: Doubles) -> Ints:
    return (_high(x) >> 20) & 0x7FF
