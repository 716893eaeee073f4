"""Folders of images: one row a file, and what makes a file's bytes no image of a field.

Files are read by Spark's `binaryFile`. Their bytes are decoded once, by OpenCV as Petastorm's codec
does it, over Arrow batches of whole columns: Spark has no expression that decodes an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pandas as pd
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from schemas.field import Image
from schemas.source import Source

_SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}


def read_images(spark: SparkSession, source: Source, files: Sequence[str]) -> DataFrame:
    """One row a file.

    Returns:
        The declared ones of the columns `file`, `folder` and `content`; `source_file`; and `raw`,
        in place of a text the digest of the bytes, which are in the source file.
    """
    found = spark.read.format("binaryFile").load(list(files)).select("path", "content")
    # Spark leaves out files without a byte; here they are rows, to be refused.
    listed = spark.createDataFrame([(file,) for file in files], "path string")
    empty = listed.join(found.select("path"), "path", "left_anti")
    found = found.unionByName(empty.withColumn("content", F.lit(bytearray())))
    columns = {
        "file": F.regexp_extract("path", "([^/]+)$", 1),
        "folder": F.regexp_extract("path", "([^/]+)/[^/]+$", 1),
        "content": F.col("content"),
    }
    return found.select(
        F.concat(F.lit("sha256:"), F.sha2("content", 256)).alias("raw"),
        F.col("path").alias("source_file"),
        *[columns[name].alias(name) for name in source.column_names],
    )


def image_reason(field: Image) -> SparkColumn:
    """The reason against an image, null for a sound one; see `problem_of`."""

    @pandas_udf("string")  # type: ignore[call-overload,untyped-decorator]
    def reasons(contents: pd.Series) -> pd.Series:
        return contents.map(problem_of(field)).astype(object)

    reason: SparkColumn = reasons(F.col(field.name))
    return reason


def problem_of(field: Image) -> Callable[[bytes | None], str | None]:
    """A function from a file's bytes to the reason against them, None for a sound image.

    The reasons: `image` for what cannot be decoded, `format` for another format than declared,
    `depth` for more than 8 bits a channel, which would be cut off, and `shape` for another height,
    width or number of channels.
    """

    def problem(content: bytes | None) -> str | None:
        image = decoded(content)
        if image is None:
            return f"image:{field.name}"
        assert content is not None
        if not content.startswith(_SIGNATURES[field.format]):
            return f"format:{field.name}"
        if image.dtype != np.uint8:
            return f"depth:{field.name}"
        return None if image.shape == field.shape else f"shape:{field.name}"

    return problem


def decoded(content: bytes | None) -> np.ndarray | None:
    if not content:
        return None
    image: np.ndarray | None = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    return image
