"""Transforms of texts before they get ids. They only declare; the row engine applies them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

# Spaces, tabs, ends of lines and the no-break space.
WHITE_SPACE = " \t\r\n\u00a0"


@dataclass(frozen=True)
class Lower:
    """Small letters, as Unicode has them, letter by letter."""


@dataclass(frozen=True)
class Trim:
    """Without the `WHITE_SPACE` at both ends; what is nothing else becomes null."""


@dataclass(frozen=True)
class Replace:
    r"""Every match of an RE2 regular expression replaced by `by`.

    In `by` `\1` is the first group, `\0` the whole match and `\\` a backslash.
    """

    pattern: str
    by: str

    def __post_init__(self) -> None:
        if group := re.search(r"\$(\d)", self.by):
            spelling = re.sub(r"\$(\d)", r"\\\1", self.by)
            raise ValueError(
                f"Replace: by is {self.by!r}, where {group[0]} is no group; write {spelling!r}"
            )


@dataclass(frozen=True)
class Normalize:
    """One spelling of what Unicode holds to be the same text.

    NFC makes a letter and its accent one character; NFKC also makes ligatures, full-width letters
    and the like the plain letters they stand for.
    """

    form: Literal["NFKC", "NFC"] = "NFKC"

    def __post_init__(self) -> None:
        if self.form not in ("NFKC", "NFC"):
            raise ValueError(f"Normalize: form is {self.form!r}; give 'NFKC' or 'NFC'")


TextTransform: TypeAlias = Lower | Trim | Replace | Normalize
