"""Rules that SQL does not judge: of texts, each distinct one looked at once, and of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.rows.judge.values import dictionary
from jobs.rows.read.images import image_reasons
from schemas.field import Image
from schemas.source import Column

Mask = npt.NDArray[np.bool_]


def text_masks(column: Column, texts: pa.ChunkedArray, of_key: bool) -> Iterator[tuple[str, Mask]]:
    """By reason, the values of a column that have it [n]."""
    if column.type.strip().lower() in ("string", "binary"):
        required = not column.nullable or of_key
        if required and texts.null_count:
            yield f"null:{column.name}", np.asarray(texts.is_null())
        if column.allowed is not None:
            allowed = pa.array([str(value) for value in column.allowed], pa.string())
            is_wrong = partial(_not_among, allowed)
            yield f"not_allowed:{column.name}", _of_distinct(texts, is_wrong)
    if column.pattern is not None:
        yield f"pattern:{column.name}", _of_distinct(texts, partial(_lacks, column.pattern))


def _of_distinct(texts: pa.ChunkedArray, test: Callable[[pa.Array], Mask]) -> Mask:
    """Where a test of each distinct text holds [n]; null passes."""
    kind = texts.type
    if not (pa.types.is_string(kind) or pa.types.is_dictionary(kind)):
        texts = texts.cast(pa.string())
    found = dictionary(texts)
    wrong = test(found.dictionary)
    if not wrong.any():
        return np.zeros(len(texts), bool)
    places = found.indices.fill_null(len(wrong)).to_numpy()
    rows: Mask = np.append(wrong, False)[places]
    return rows


def _lacks(pattern: str, texts: pa.Array) -> Mask:
    return ~np.asarray(pc.match_substring_regex(texts, pattern))


def _not_among(allowed: pa.Array, texts: pa.Array) -> Mask:
    return ~np.asarray(pc.is_in(texts, value_set=allowed))


def image_masks(f: Image, contents: pa.Array) -> dict[str, Mask]:
    """By reason, the images of a field that have it [n]."""
    reasons = np.array(image_reasons(contents, f), object)
    kinds: Sequence[str] = ("image", "format", "depth", "shape")
    return {f"{kind}:{f.name}": reasons == f"{kind}:{f.name}" for kind in kinds}
