"""What transforms make of values: texts, crosses, buckets, numbers; and a declaration's digest."""

from __future__ import annotations

import math
import random
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest

from jobs.base.errors import DataRefused
from jobs.rows.judge import values as values_module
from jobs.rows.judge.values import dictionary, number_values, text_values
from schemas.criteo import CRITEO
from schemas.dataset import Column, Dataset, Join, Source
from schemas.field import (
    SEPARATOR,
    Categorical,
    Clip,
    Cyclic,
    Label,
    Log1p,
    Numeric,
    Scale,
    Transform,
)
from schemas.hashed import Bucketized, Hashed
from schemas.text import Lower, Normalize, Replace, TextTransform, Trim
from tests.rows.engines import judged, values_of, write


def transformed(texts: list[str | None], *transforms: TextTransform) -> list[str | None]:
    f = Categorical("x", transforms=transforms)
    found: list[str | None] = text_values(f, pa.array(texts, pa.string())).to_pylist()
    return found


def test_text_transforms_in_their_order() -> None:
    texts = [" A\u00a0", "\t\r\n ", "", None, "É", "\u3000x"]
    assert transformed(texts, Trim()) == ["A", None, None, None, "É", "\u3000x"]
    assert transformed(texts, Lower(), Trim()) == ["a", None, None, None, "é", "\u3000x"]
    assert transformed(texts, Normalize(), Trim()) == ["A", None, None, None, "É", "x"]
    assert transformed(["a1", "b22"], Replace("[0-9]+", "#"), Replace("#", "")) == ["a", "b"]
    assert transformed(["a-b"], Replace("(a)-(b)", r"\2\\\1\0")) == ["b\\aa-b"]


def test_what_transforms_make_alike_is_one_value() -> None:
    found = text_values(
        Categorical("x", transforms=(Lower(),)), pa.array(["A", "a", None, "B", "A"])
    )
    assert found.to_pylist() == ["a", "a", None, "b", "a"]
    assert sorted(found.dictionary.to_pylist()) == ["a", "b"]


def test_each_distinct_text_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = values_module.pc.replace_substring_regex

    def counted(texts: pa.Array, pattern: str, by: str) -> pa.Array:
        seen.append(len(texts))
        return real(texts, pattern, by)

    monkeypatch.setattr(values_module.pc, "replace_substring_regex", counted)
    texts = [f"v{n % 7}" for n in range(10_000)]
    expected = [f"w{n % 7}" for n in range(10_000)]
    assert transformed([*texts, None], Replace("v", "w")) == [*expected, None]
    assert seen == [7]


# Normal forms


def characters() -> list[str]:
    """Those of an old Unicode, which all libraries know alike."""
    every = map(chr, range(sys.maxunicode + 1))
    return [c for c in every if unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Co", "Cs")]


def moved(c: str) -> bool:
    """Whether normal forms take the character apart, order it or join it with others."""
    hangul = "\u1100" <= c <= "\u11ff"
    return bool(unicodedata.decomposition(c) or unicodedata.combining(c) or hangul)


def texts_of_all_characters() -> list[str]:
    """Every character alone, and many mixed."""
    chance = random.Random(5)
    alone = characters()
    letters = [*filter(moved, alone), *"aeioun" * 100]
    mixed = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(30_000)]
    return alone + mixed


@pytest.mark.parametrize("form", ["NFKC", "NFC"])
def test_normal_forms_are_unicodes(form: Literal["NFKC", "NFC"]) -> None:
    given = texts_of_all_characters()
    found = transformed([*given], Normalize(form))
    expected = [unicodedata.normalize(form, text) for text in given]
    assert sum(a != b for a, b in zip(given, expected, strict=True)) > 10_000
    assert [x for x in zip(given, found, expected, strict=True) if x[1] != x[2]] == []
    assert {unicodedata.is_normalized(form, text or "") for text in found} == {True}


def test_null_stays_null_wherever_it_is_normalized() -> None:
    texts = ["\uff21\u00a0", None, "\u3000", "e\u0301"]
    found = transformed(texts, Normalize(), Trim(), Lower(), Normalize("NFC"))
    assert found == ["a", None, None, "\u00e9"]


# Crosses and buckets


def test_crosses(tmp_path: Path) -> None:
    source = Source("rows", (Column("a", "string"), Column("n", "int")), format="json")
    fields = (
        Label("y", "1"),
        Categorical("both", crossed=("a_id", "n_id")),
        Categorical("a_id", "a", transforms=(Lower(),)),
        Categorical("n_id", "n"),
        Hashed("twice", crossed=("a_id", "n_id"), oov_buckets=9),
    )
    dataset = Dataset("crossed", (source,), "rows", (), fields)
    lines = ['{"a": "X", "n": 1}', '{"a": "x"}', '{"n": 1}', "{}", '{"a": ""}']
    found = judged(dataset, write(tmp_path, {"0.json": "\n".join(lines)}))
    expected = ["x" + SEPARATOR + "1", "x" + SEPARATOR, SEPARATOR + "1", None, None]
    assert values_of(found, "both") == expected
    assert values_of(found, "both") == values_of(found, "twice")


@pytest.mark.parametrize(
    ("number", "place"),
    [
        *[(-math.inf, 0), (-1.5, 0), (0.0, 1), (-0.0, 1), (0.5, 1), (1.0, 2), (1.5, 2), (1e300, 3)],
        *[(2.0, 3), (math.inf, 3), (None, None), (math.nan, None)],
    ],
)
def test_buckets(number: float | None, place: int | None) -> None:
    f = Bucketized("x", boundaries=(0.0, 1.0, 2.0))
    found = text_values(f, pa.array([number], pa.float64()))
    assert found.to_pylist() == [None if place is None else str(place)]


@pytest.mark.parametrize("boundaries", [(), (1.0, 1.0), (2.0, 1.0), (math.nan,), ("1", "2")])
def test_boundaries_are_ascending_numbers(boundaries: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="numbers that ascend"):
        Bucketized("x", boundaries=boundaries)


def test_a_text_that_is_nan_is_in_no_bucket(tmp_path: Path) -> None:
    fields = (Label("y", "1"), Bucketized("b", "t", boundaries=(1.0, 10.0)))
    dataset = Dataset("d", (Source("rows", (Column("t", "string"),)),), "rows", (), fields)
    texts = ["t", "nan", "5", "inf", "abc"]
    found = judged(dataset, write(tmp_path, {"0.csv": "\n".join(texts)}))
    assert values_of(found, "b") == [None, "1", "2", None]


@pytest.mark.slow
def test_more_texts_than_an_array_holds_are_refused() -> None:
    long = pa.array(["x" * (256 << 20)])
    with pytest.raises(DataRefused, match="more than 2 GiB of texts"):
        dictionary(pa.chunked_array([long] * 9))


def test_texts_of_several_chunks_and_of_none() -> None:
    chunks = pa.chunked_array([["a", "b"], ["b", None]])
    assert dictionary(chunks).to_pylist() == ["a", "b", "b", None]
    parts = [pa.array([text]).dictionary_encode() for text in "ab"]
    apart = dictionary(pa.chunked_array(parts).unify_dictionaries())
    assert text_values(Categorical("x"), apart).to_pylist() == ["a", "b"]
    assert dictionary(pa.chunked_array([], pa.string())).to_pylist() == []


# Numbers


def numbers(x: list[float | None], *transforms: Transform) -> tuple[list[Any], list[bool]]:
    found, lost = number_values(Numeric("x", transforms=transforms), pa.array(x, pa.float64()))
    return found.to_pylist(), lost.tolist()


def test_a_value_that_a_transform_loses_is_told() -> None:
    x = [0.0, -1.0, -2.0, 1e39, None, math.inf, math.nan]
    _, lost = numbers(x)
    assert lost == [False, False, False, True, False, True, True]
    found, lost = numbers(x, Log1p())
    assert lost == [False, True, True, False, False, True, True]
    assert found[4] is None
    _, lost = numbers(x, Clip(0, 9), Log1p())
    assert lost == [False, False, False, False, False, True, True]


@pytest.mark.parametrize("signed", [0.0, -0.0])
def test_a_looked_up_value_has_the_bits_of_a_computed_one(signed: float) -> None:
    for transforms in ((Log1p(),), (Scale(-1.5), Clip(-9.0, signed)), (Cyclic(24, "sin"),), ()):
        whole = [0.0, -0.0, 1.0, 2.0, 65_535.0, 65_536.0, 0.5]
        together, _ = numbers(whole, *transforms)
        alone = [numbers([x, 0.25], *transforms)[0][0] for x in whole]
        assert np.array(together, np.float32).tobytes() == np.array(alone, np.float32).tobytes()


# Digests of declarations


def test_a_declaration_of_columns_alone_keeps_its_digest() -> None:
    assert CRITEO.digest == "b140255f3f0a2c14"
    # Whatever language expressions are written in.
    assert replace(CRITEO, name="other").digest != CRITEO.digest


def test_the_language_of_expressions_is_part_of_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("rows", (Column("a", "int"), Column("day", "date")))
    plain = Dataset("d", (source,), "rows", (), (Label("y", "a"), Numeric("a")))
    parent = Source("parent", (Column("k", "int"),))
    others = [
        replace(plain, ds="day"),
        replace(plain, fields=(Label("y", "a"), Numeric("a", "7 / a"))),
        replace(plain, sources=(source, parent), joins=(Join("parent", (("a", "k"),)),)),
    ]
    before = [(one.digest, one.field_digests) for one in (plain, *others)]
    monkeypatch.setattr("schemas.dataset._LANGUAGE", {"expressions": "another"})
    after = [
        (one.digest, one.field_digests) for one in (replace(some) for some in (plain, *others))
    ]
    assert after[0] == before[0]
    assert all(a[0] != b[0] for a, b in zip(after[1:], before[1:], strict=True))
    assert [a[1] == b[1] for a, b in zip(after[1:], before[1:], strict=True)] == [True, False, True]
    assert after[2][1]["y"] == before[2][1]["y"] and after[2][1]["a"] != before[2][1]["a"]
