"""ln(1 + x) by NumPy with the bits that Spark gives, which are those of fdlibm, on every machine.

NumPy's own differs in the last bit from one processor to the next. The steps are those of fdlibm
5.3's s_log1p.c (https://netlib.org/fdlibm/s_log1p.c), each one correctly rounded as IEEE 754 says.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_POLYNOMIAL = (
    1.479819860511658591e-01,
    1.531383769920937332e-01,
    1.818357216161805012e-01,
    2.222219843214978396e-01,
    2.857142874366239149e-01,
    3.999999999940941908e-01,
    6.666666666666735130e-01,
)


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


def _reduced(
    x: Doubles, near: npt.NDArray[np.bool_]
) -> tuple[Doubles, Doubles, Doubles, npt.NDArray[np.int64]]:
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


def _logarithm(f: Doubles, k: Doubles, c: Doubles, mantissa: npt.NDArray[np.int64]) -> Doubles:
    half_square = 0.5 * f * f
    s = f / (2.0 + f)
    z = s * s
    r = np.full_like(z, _POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        r = coefficient + z * r
    r = z * r
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
