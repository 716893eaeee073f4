"""Transforms of texts before they get ids: native Spark SQL, so one row alone and a batch agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

TextTransform: TypeAlias = "Lower | Trim | Replace"


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
