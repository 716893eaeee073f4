"""Transforms of texts: what contradicts itself is refused where it is written."""

from __future__ import annotations

import pytest

from schemas.dataset import Column, Dataset, DeclarationError, Source
from schemas.field import Categorical, Label
from schemas.text import Normalize, Replace


def test_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form is 'nfkc'; give 'NFKC' or 'NFC'"):
        Normalize("nfkc")  # type: ignore[arg-type]


def declared(pattern: str | None, *transforms: Replace) -> Dataset:
    source = Source("rows", (Column("y", "int"), Column("word", "string", pattern=pattern)))
    field = Categorical("word_id", "word", transforms=transforms)
    return Dataset("made_up", (source,), "rows", (), (Label("label", "y"), field))


def test_groups_are_named_as_re2_names_them() -> None:
    with pytest.raises(ValueError, match=r"where \$1 is no group; write '<\\\\1>'"):
        Replace("a(b)", "<$1>")
    declared(None, Replace("a(b)", r"<\1\0\\>"), Replace("a", "$ 1"))
    with pytest.raises(DeclarationError, match=r"'word_id': RE2 refuses .* requests 2 matches"):
        declared(None, Replace("a(b)", r"\2"))


@pytest.mark.parametrize("pattern", ["(a", "(?=a)", r"(a)\1", "a{1,5000}"])
def test_a_pattern_that_re2_cannot_compile_is_refused(pattern: str) -> None:
    with pytest.raises(DeclarationError, match="RE2 refuses"):
        declared(pattern)
    with pytest.raises(DeclarationError, match="RE2 refuses"):
        declared(None, Replace(pattern, ""))
