"""Unicode's normal forms in Spark are Python's."""

from __future__ import annotations

import random
import sys
import unicodedata
from typing import Literal

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from schemas.text import Lower, Normalize, Trim


def characters() -> list[str]:
    """Those of an old Unicode: Spark's ICU and Python know different newer ones."""
    every = map(chr, range(sys.maxunicode + 1))
    return [c for c in every if unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Co", "Cs")]


def moved(c: str) -> bool:
    """Whether normal forms take the character apart, order it or join it with others."""
    hangul = "\u1100" <= c <= "\u11ff"
    return bool(unicodedata.decomposition(c) or unicodedata.combining(c) or hangul)


def texts() -> list[str]:
    """Every character alone, and many mixed."""
    chance = random.Random(5)
    alone = characters()
    letters = [*filter(moved, alone), *"aeioun" * 100]
    mixed = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(30_000)]
    return alone + mixed


@pytest.mark.parametrize("form", ["NFKC", "NFC"])
def test_normal_forms_are_unicodes(spark: SparkSession, form: Literal["NFKC", "NFC"]) -> None:
    given = texts()
    rows = spark.createDataFrame([(text,) for text in given], "x string")
    found = rows.select("x", F.expr(Normalize(form).sql("x")).alias("normal")).toPandas()
    assert len(found) == len(given)
    expected = found["x"].map(lambda text: unicodedata.normalize(form, text))
    assert (found["x"] != expected).sum() > 10_000
    assert found[found["normal"] != expected].empty


def test_null_stays_null_wherever_spark_normalizes(spark: SparkSession) -> None:
    x = "x"
    for transform in (Normalize(), Trim(), Lower(), Normalize("NFC")):
        x = transform.sql(x)
    rows = spark.createDataFrame(
        [("\uff21\u00a0",), (None,), ("\u3000",), ("e\u0301",)], "x string"
    )
    value = F.expr(x).alias("normal")
    # Alone, sorted and grouped, since Spark computes these in places of their own.
    found = [row["normal"] for row in rows.select(value).collect()]
    assert found == ["a", None, None, "\u00e9"]
    assert [row["x"] for row in rows.orderBy(value).collect()][2:] == ["\uff21\u00a0", "e\u0301"]
    grouped = {row["normal"]: row["count"] for row in rows.groupBy(value).count().collect()}
    assert grouped == {"a": 1, None: 2, "\u00e9": 1}


def test_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form is 'nfkc'; give 'NFKC' or 'NFC'"):
        Normalize("nfkc")  # type: ignore[arg-type]
