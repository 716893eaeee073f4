"""Texts that are no spelling of a declared type are told apart before DuckDB casts them.

Its casts are looser than a rule for data may be: they take 1.5 and 1e2 for whole numbers, 1_000 for
a thousand and `epoch` for a date. Most columns are seen to be sound from their bytes together; in
the others texts are looked at one by one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# No spelling of anything, so that it has no value.
NO_VALUE = "?"

_DIGITS = "0123456789"
_WHOLE, _DECIMAL = _DIGITS + "+- ", _DIGITS + "+-.eE "
# No year 0, and no hour 24.
_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DATE = f" *{_YEAR}-[0-9]{{1,2}}-[0-9]{{1,2}}"
_TIME = r"[ T](?:[01]?[0-9]|2[0-3]):[0-9]{1,2}(?::[0-9]{1,2}(?:\.[0-9]{1,9})?)?"
_ZONE = " ?(?:Z|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
_ODD_MOMENT, _SHORT_ZONE = "^ | $| [Z+-]|[+-][0-9]{4}$", "([+-][0-9]{2})([0-9]{2})$"
_INTEGERS = ("tinyint", "smallint", "int", "integer", "bigint", "long")

# By type: the bytes of texts that the cast itself judges strictly, but for +-1, a number to it; and
# the spellings that count.
_SPELLINGS = {
    **dict.fromkeys(_INTEGERS, (_WHOLE, "^ *[+-]?[0-9]+ *$")),
    **dict.fromkeys(
        ("float", "double"),
        (_DECIMAL, r"^ *[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)? *$"),
    ),
    "boolean": ("", "(?i)^ *(?:true|false|t|f|yes|no|y|n|1|0) *$"),
    "date": ("", f"^{_DATE} *$"),
    "timestamp": ("", f"^{_DATE}(?:{_TIME}(?:{_ZONE})?)? *$"),
}


def strict(texts: pa.ChunkedArray, type_: str) -> pa.ChunkedArray:
    """The texts [n], with `NO_VALUE` in the place of those that spell no value of the type."""
    kind = type_.strip().lower()
    if (spelling := _SPELLINGS.get(kind)) is None:
        return texts
    allowed, pattern = spelling
    if allowed and all(_only(chunk, allowed) for chunk in texts.chunks):
        return texts
    spelled = pc.match_substring_regex(texts, pattern)
    if kind == "timestamp":
        texts = _as_duckdb_has_them(texts)
    return pc.if_else(pc.fill_null(spelled, True), texts, NO_VALUE)


def _as_duckdb_has_them(moments: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without spaces around the moment or before its offset, which has a colon."""
    if not pc.any(pc.match_substring_regex(moments, _ODD_MOMENT)).as_py():
        return moments
    bare = pc.replace_substring_regex(pc.ascii_trim(moments, " "), " ([Z+-])", r"\1")
    return pc.replace_substring_regex(bare, _SHORT_ZONE, r"\1:\2")


_TABLES: dict[str, npt.NDArray[np.bool_]] = {}


def _only(texts: pa.StringArray, allowed: str) -> bool:
    """Whether the texts have no bytes but these, and no two signs."""
    _, offset_buffer, data = texts.buffers()
    if data is None or not len(texts):
        return True
    offsets = np.frombuffer(offset_buffer, np.int32)[texts.offset :]
    content = np.frombuffer(data, np.uint8)[offsets[0] : offsets[len(texts)]]
    if allowed not in _TABLES:
        _TABLES[allowed] = np.isin(np.arange(256), list(allowed.encode()))
    return bool(_TABLES[allowed][content].all()) and b"+-" not in content.tobytes()
