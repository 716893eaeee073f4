"""Transforms of texts before they get ids: native Spark SQL, so one row alone and a batch agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

TextTransform: TypeAlias = "Lower | Trim | Replace | Normalize"


def literal(text: str) -> str:
    """A text as Spark SQL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@dataclass(frozen=True)
class Lower:
    """Small letters, as Unicode has them."""

    def sql(self, x: str) -> str:
        return f"lower({x})"


@dataclass(frozen=True)
class Trim:
    """Without the white space at both ends; what is nothing else becomes null."""

    def sql(self, x: str) -> str:
        return f"nullif(trim(BOTH ' \\t\\r\\n\\u00a0' FROM {x}), '')"


@dataclass(frozen=True)
class Replace:
    """Every match of a Java regular expression replaced by `by`, where $1 is the first group."""

    pattern: str
    by: str

    def sql(self, x: str) -> str:
        return f"regexp_replace({x}, {literal(self.pattern)}, {literal(self.by)})"


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

    def sql(self, x: str) -> str:
        # Spark has no function for it, but ICU, which its collations need, on every class path.
        # ICU refuses null, and CASE alone does not keep null away: a reflected call, which may be
        # random for all Spark knows, is taken out of a sort's or a group's key and made first.
        compatible = str(self.form == "NFKC").lower()
        text = f"coalesce({x}, '')"
        call = f"reflect('com.ibm.icu.text.Normalizer', 'compose', {text}, {compatible})"
        return f"CASE WHEN {x} IS NOT NULL THEN {call} END"
