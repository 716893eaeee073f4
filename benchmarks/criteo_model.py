"""Click logs with a known truth: categories, integers, and the true log-odds of a click.

Categories follow Zipf's law over the public set's cardinalities (3 to 10 million). The log-odds of
a click are a sum of effects of frequent categories, products of latent vectors of frequent
categories (interactions), and effects of the integers. Rare categories have no effect of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Those of the public set with 45 million rows.
CARDINALITIES = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
MISSING_CATEGORY = (
    *(0, 0, 0.03, 0.03, 0, 0.12, 0, 0, 0, 0, 0, 0.03, 0, 0, 0, 0.03, 0, 0),
    *(0.44, 0.44, 0.03, 0.76, 0, 0.03, 0.44, 0.44),
)
# Mean and deviation of the logarithms of the integers.
LOG_MEANS = (0.6, 2.0, 2.0, 1.6, 7.5, 3.4, 1.9, 2.0, 3.6, 0.4, 1.0, 0.3, 1.8)
LOG_STDS = (0.9, 1.6, 1.3, 0.9, 2.2, 1.6, 1.2, 1.0, 1.3, 0.3, 0.8, 0.5, 1.0)
MISSING_INTEGER = (0.45, 0, 0.21, 0.22, 0.03, 0.22, 0.04, 0, 0.04, 0.45, 0.04, 0.77, 0.22)
BELOW_ZERO = 1  # index of the integer that is -1 to -3 in a tenth of the rows

# What has an effect: so many of the most frequent values.
HEAD, INTERACTING_HEAD, LATENTS = 2_000, 60, 3
INTERACTING = (0, 1, 4, 5, 7, 13, 17, 22)
# Shares of the variance of the log-odds, its deviation, and their mean.
SHARES = {"categories": 0.53, "interactions": 0.31, "integers": 0.16}
DEVIATION, INTERCEPT = 1.35, -1.45
_ODD = 0x9E3779B1
NONE = -1


@dataclass(frozen=True)
class Rows:
    """Ranks of the categories, most frequent 0, and integers; `NONE` rank or mask: missing."""

    ranks: Ints  # [26, n]
    integers: Ints  # [13, n]
    missing: npt.NDArray[np.bool_]  # [13, n], of the integers

    def log_integers(self) -> Floats:
        """[13, n]: log1p of what is above 0, missing as NaN."""
        logs: Floats = np.log1p(np.maximum(self.integers, 0).astype(np.float32))
        logs[self.missing] = np.nan
        return logs


def draw(rows: int, rng: np.random.Generator) -> Rows:
    ranks = np.empty((len(CARDINALITIES), rows), np.int64)
    for i, cardinality in enumerate(CARDINALITIES):
        # Floor of a log-uniform number: P(rank r) is in proportion to ln(1 + 1 / (r + 1)).
        u = rng.random(rows, np.float32) * np.float32(np.log(cardinality + 1))
        ranks[i] = np.minimum(np.exp(u, dtype=np.float64), cardinality).astype(np.int64) - 1
        if MISSING_CATEGORY[i]:
            ranks[i][rng.random(rows, np.float32) < MISSING_CATEGORY[i]] = NONE
    integers = np.empty((len(LOG_MEANS), rows), np.int64)
    missing = np.empty((len(LOG_MEANS), rows), np.bool_)
    for i, (mean, std) in enumerate(zip(LOG_MEANS, LOG_STDS, strict=True)):
        integers[i] = np.exp(rng.standard_normal(rows, np.float32) * std + mean)
        missing[i] = rng.random(rows, np.float32) < MISSING_INTEGER[i]
    below = rng.random(rows, np.float32) < 0.1
    integers[BELOW_ZERO][below] = -rng.integers(1, 4, int(below.sum()))
    return Rows(ranks, integers, missing)


class ClickModel:
    """The true log-odds of a click; all follows from the seed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        self._main = [_decaying(rng, c) for c in CARDINALITIES]
        self._latent = {
            i: _padded(rng.standard_normal((min(CARDINALITIES[i], INTERACTING_HEAD), LATENTS)))
            for i in INTERACTING
        }
        self._slopes = rng.normal(size=len(LOG_MEANS)).astype(np.float32)
        self._seed = seed
        sample = draw(400_000, np.random.default_rng([seed, 2]))
        self._centre(sample.ranks)
        parts = self._raw_parts(sample.ranks, sample.log_integers())
        self._scales = {
            name: DEVIATION * np.sqrt(SHARES[name]) / part.std() for name, part in parts.items()
        }
        self._offset = INTERCEPT - sum(
            self._scales[name] * part.mean() for name, part in parts.items()
        )

    def _centre(self, ranks: Ints) -> None:
        """Interactions hold no main effect, and their vectors no mean."""
        for i, latent in self._latent.items():
            weights = np.bincount(np.minimum(ranks[i], len(latent) - 1)[ranks[i] >= 0])
            weights = weights[: len(latent) - 1].astype(np.float64)
            latent[:-1] -= (weights @ latent[:-1] / weights.sum()).astype(np.float32)

    def _raw_parts(self, ranks: Ints, log_integers: Floats) -> dict[str, Floats]:
        categories = np.zeros(ranks.shape[1], np.float32)
        for effects, values in zip(self._main, ranks, strict=True):
            categories += effects[np.minimum(values, len(effects) - 1)]
        vectors = [
            latent[np.minimum(ranks[i], len(latent) - 1)] for i, latent in self._latent.items()
        ]
        # The sum of all products of two is half of what their sum's square has too much.
        squares = sum((v**2).sum(1) for v in vectors)
        interactions = ((sum(vectors) ** 2).sum(1) - squares) / 2
        centred = (log_integers.T - np.asarray(LOG_MEANS, np.float32)) / np.asarray(
            LOG_STDS, np.float32
        )
        integers = np.nan_to_num(centred) @ self._slopes
        return {"categories": categories, "interactions": interactions, "integers": integers}

    def parts(self, ranks: Ints, log_integers: Floats) -> dict[str, Floats]:
        """Summands of the log-odds, each [n]; the intercept is in none of them."""
        raw = self._raw_parts(ranks, log_integers)
        return {name: (self._scales[name] * part).astype(np.float32) for name, part in raw.items()}

    def probability(self, ranks: Ints, log_integers: Floats) -> Floats:
        log_odds = self._offset + sum(self.parts(ranks, log_integers).values())
        return (1 / (1 + np.exp(-log_odds))).astype(np.float32)


def _decaying(rng: np.random.Generator, cardinality: int) -> Floats:
    """Effects of the values by rank; rarer ones shrink. The last, 0, is that of all others."""
    head = min(cardinality, HEAD)
    decay = 1 / np.sqrt(1 + np.arange(head) / 200)
    return _padded((rng.standard_normal(head) * decay)[:, None])[:, 0]


def _padded(values: npt.NDArray[np.float64]) -> Floats:
    return np.vstack([values, np.zeros((1, values.shape[1]))]).astype(np.float32)


# The four hexadecimal digits of each 16-bit number, as bytes.
_DIGITS = np.frombuffer("".join(f"{i:04x}" for i in range(2**16)).encode(), np.uint32)


def texts_of(ranks: Ints, field: int) -> pa.Array:
    """Ranks as eight hexadecimal digits; one to one within a field."""
    codes = ((ranks + field * 1_000_003) * _ODD).astype(np.uint32)
    digits = np.empty((len(codes), 2), np.uint32)
    digits[:, 0], digits[:, 1] = _DIGITS[codes >> 16], _DIGITS[codes & 0xFFFF]
    ends = pa.py_buffer(np.arange(0, 8 * len(codes) + 1, 8, np.int32))
    known = pa.array(ranks != NONE).buffers()[1]
    return pa.StringArray.from_buffers(len(codes), ends, pa.py_buffer(digits), known)


def ranks_of(texts: pa.ChunkedArray, field: int) -> Ints:
    """What `texts_of` made them of."""
    known = texts.is_valid().to_numpy()
    characters = np.array(texts.drop_null().to_numpy(), dtype="S8")
    digits = np.frombuffer(characters.tobytes(), np.uint8).reshape(-1, 8)
    # '0' to '9' are 0x30 to 0x39, 'a' to 'f' 0x61 to 0x66.
    values = ((digits & 15) + 9 * (digits >> 6)).astype(np.int64)
    codes = values @ (16 ** np.arange(7, -1, -1))
    ranks = np.full(len(known), NONE, np.int64)
    ranks[known] = (codes * pow(_ODD, -1, 2**32) - field * 1_000_003) % 2**32
    return ranks


def auc(label: npt.NDArray[Any], score: Floats) -> float:
    """Area under the ROC curve; scores are taken as untied."""
    ranks = np.empty(len(score))
    ranks[np.argsort(score, kind="stable")] = np.arange(1, len(score) + 1)
    clicks = int(label.sum())
    return float(
        (ranks[label == 1].sum() - clicks * (clicks + 1) / 2) / (clicks * (len(label) - clicks))
    )
