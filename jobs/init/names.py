"""Names fit for SQL, from those of a header."""

from __future__ import annotations

import importlib.util
import keyword
import re
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import cache

from jobs.rows.base.duck import connection
from schemas.checks import RESERVED
from schemas.source import quoted

# What SQL reads as a value where a column is meant: confusing even in quotes.
_SQL_VALUES = frozenset({"true", "false", "null"})
_YAML_VALUES = _SQL_VALUES | {"yes", "no", "on", "off"}


def plain_name(text: str) -> str:
    """Lower-case letters, digits and underscores; begins with a letter."""
    letters = (
        unicodedata.normalize("NFKD", text.replace("ß", "ss"))
        .encode("ascii", "ignore")
        .decode()
        .lower()
    )
    name = re.sub(r"[^a-z0-9]+", "_", letters).strip("_")
    return name if name[:1].isalpha() else f"c_{name}".rstrip("_")


def data_name(text: str) -> str:
    """A data set's name: no module that can be imported, which its declaration would hide from
    processes that start in its folder, and no value of YAML's."""
    name = plain_name(text)
    module = importlib.util.find_spec(name)
    is_taken = (module is not None and module.origin is not None) or name in _YAML_VALUES
    return f"{name}_data" if is_taken else name


def sql_names(header: Sequence[str]) -> dict[str, str]:
    """A name for each column of a header: its own, where SQL can read that."""
    taken = {name.lower() for name in header}
    found = {}
    for name in header:
        if is_fit(name):
            found[name] = name
        else:
            found[name] = unique(plain_name(name), taken)
            taken.add(found[name])
    return found


def is_fit(name: str) -> bool:
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None
    return plain and name.lower() not in _SQL_VALUES | RESERVED


def in_sql(name: str) -> str:
    """The name of a column as an expression has it: in quotes only where SQL needs them."""
    return quoted(name) if name.lower() in _keywords() else name


@cache
def _keywords() -> frozenset[str]:
    """Words that are no names of columns in DuckDB's SQL, or not everywhere."""
    with closing(connection(64)) as duck:
        words = duck.execute(
            "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'"
        )
        return frozenset(word for (word,) in words.fetchall())


def unique(name: str, taken: Iterable[str]) -> str:
    """The name, or with a number behind it, as none that is taken and no reserved word."""
    used = {*taken} | _SQL_VALUES | RESERVED
    candidates = (name, *(f"{name}_{number}" for number in range(2, len(used) + 3)))
    return next(candidate for candidate in candidates if candidate not in used)


def python_name(name: str) -> str:
    """As a constant of a module."""
    constant = plain_name(name).upper()
    return f"{constant}_" if keyword.iskeyword(constant.lower()) else constant
