"""scikit-learn's 1,797 bundled digits as PNG files: FOLDER/DATE/DIGIT/NUMBER.png."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits

# The first image of each date.
DATES: Mapping[str, int] = {"2024-01-01": 0, "2024-01-02": 1_200, "2024-01-03": 1_500}
# The bundled pixels go from 0 to 16.
_BRIGHTNESS = 15


def make_digits(folder: Path, step: int = 1) -> int:
    """Writes every `step`-th digit; returns how many."""
    digits = load_digits()
    numbers = range(0, len(digits.images), step)
    for number in numbers:
        ds = max(ds for ds, first in DATES.items() if first <= number)
        file = folder / ds / str(digits.target[number]) / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[number] * _BRIGHTNESS).astype(np.uint8)
        file.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return len(numbers)


if __name__ == "__main__":
    written = make_digits(Path(sys.argv[1]))
    print(f"{written:,} digits of {', '.join(DATES)} in {sys.argv[1]}")
