"""What an expression is made of: functions, and which of them follow from the row alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import duckdb

# The tables that expressions are bound over begin so. An expression cannot name them: names that
# begin with two underscores are the engine's own.
OWN = "__"
_CLASSES = frozenset(
    {"BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT"}
    | {"FUNCTION", "LAMBDA", "OPERATOR", "TYPE"}
)
_WHAT = {
    "STAR": "a star (*), where one value is needed",
    "SUBQUERY": "a subquery: an expression sees its own row only",
    "WINDOW": "a window: an expression sees its own row only",
    "PARAMETER": "a parameter, which nothing gives a value",
    "POSITIONAL_REFERENCE": "a column by its place (#1); name it",
    "DEFAULT": "DEFAULT, which only an INSERT has",
}
# What DuckDB's catalogue does not tell: functions of the clock that it calls consistent, those that
# are written without parentheses, and those of the session.
_OF_THE_CLOCK = frozenset(
    {"current_date", "current_time", "current_timestamp", "current_localtime", "localtime"}
    | {"current_localtimestamp", "localtimestamp"}
)
_OF_THE_SESSION = frozenset(
    {"user", "current_user", "session_user", "current_role", "current_catalog", "version"}
)
_OF_ZONE = frozenset({"timetz", "time with time zone"})


class Catalogue:
    """DuckDB's functions, and which of them an expression may call."""

    def __init__(self, duck: duckdb.DuckDBPyConnection) -> None:
        self._duck = duck
        self._kinds: dict[str, set[str]] = {}
        self._macros: dict[str, set[str]] = {}
        self._inconsistent: set[str] = set()
        found = duck.execute(
            "SELECT lower(function_name), function_type, macro_definition, stability "
            "FROM duckdb_functions()"
        )
        for name, kind, definition, stability in found.fetchall():
            self._kinds.setdefault(name, set()).add(kind)
            if kind == "macro":
                self._macros.setdefault(name, set()).add(definition)
            elif stability not in (None, "CONSISTENT"):
                self._inconsistent.add(name)

    def problem(self, sql: str, columns: set[str]) -> str:
        """Why an expression cannot be made from the row; empty if nothing is against it.

        Args:
            columns: that it sees, in small letters.
        """
        try:
            return self._problem(self._tree(sql), columns, frozenset())
        except ValueError as error:
            return f"is no expression: {error}"

    def _problem(self, tree: Any, columns: set[str], outer: frozenset[str]) -> str:
        """The same of a parsed expression, or of a macro's definition.

        Args:
            outer: macros whose definitions are being looked at.
        """
        for node in _nodes(tree):
            problem = ""
            match node["class"]:
                case "COLUMN_REF" if node["column_names"][0].startswith(OWN):
                    name = node["column_names"][0]
                    problem = f"names {name!r}; names with two underscores are Millstream's own"
                case "COLUMN_REF" if len(node["column_names"]) == 1:
                    # Some functions are called without parentheses.
                    name = node["column_names"][0].lower()
                    problem = "" if name in columns else self._problem_of_call(name, outer)
                case "FUNCTION":
                    name = node["function_name"].lower()
                    if name == "age" and _arguments(node) < 2:
                        problem = "calls age of one date, which asks the clock; give both dates"
                    else:
                        problem = self._problem_of_call(name, outer)
                case "TYPE" if node["type_name"].lower() in _OF_ZONE:
                    problem = "has a time of day with a zone, which asks the clock for its offset"
                case kind if kind not in _CLASSES:
                    problem = f"has {_WHAT.get(kind, kind.lower().replace('_', ' '))}"
            if problem:
                return problem
        return ""

    def _problem_of_call(self, name: str, outer: frozenset[str]) -> str:
        kinds = self._kinds.get(name, set())
        if name in _OF_THE_CLOCK:
            return f"calls {name}, which asks the clock"
        if name in _OF_THE_SESSION:
            return f"calls {name}, which asks the session"
        if name in self._inconsistent:
            return f"calls {name}, whose value does not follow from the row"
        if "aggregate" in kinds:
            return f"calls {name}, an aggregate: an expression sees its own row only"
        if "window" in kinds:
            return f"calls {name}, a window function: an expression sees its own row only"
        if kinds and not kinds & {"scalar", "macro"}:
            return f"calls {name}, which gives rows of a table or a file, where one value is needed"
        for definition in self._macros.get(name, set()) if name not in outer else ():
            if problem := self._problem(self._tree(definition), set(), outer | {name}):
                return f"calls {name}, which {problem}"
        return ""

    def functions(self, expressions: Iterable[str]) -> set[str]:
        """Names of all that is called."""
        found: set[str] = set()
        left = [*expressions]
        while left:
            for node in _nodes(self._tree(left.pop())):
                if node["class"] == "FUNCTION" and (name := node["function_name"]) not in found:
                    found.add(name)
                    left += self._macros.get(name, ())
        return found

    def _tree(self, sql: str) -> dict[str, Any]:
        """The parsed expression.

        Raises:
            ValueError: it is none, or more than one.
        """
        bare = self._parsed(f"SELECT {sql}")
        # What is no expression in brackets would run into what stands behind it in a statement: a
        # comment, a FROM, a name.
        self._parsed(f"SELECT ({sql})")
        statements = bare["statements"]
        if len(statements) != 1 or len(statements[0]["node"]["select_list"]) != 1:
            raise ValueError("more than one value")
        (tree,) = statements[0]["node"]["select_list"]
        return dict(tree)

    def _parsed(self, statement: str) -> dict[str, Any]:
        row = self._duck.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement]).fetchone()
        assert row is not None
        parsed: dict[str, Any] = json.loads(row[0])
        if parsed["error"]:
            raise ValueError(first_lines(parsed["error_message"]))
        return parsed


def _arguments(call: dict[str, Any]) -> int:
    """How many a function gets, with what stands before it: `t.age(u)` is `age(t, u)`."""
    owner = call["schema"].lower()
    return len(call["arguments"]) + (owner not in ("", "main"))


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All nodes of a parse tree, the outermost first, but for those inside a subquery."""
    if isinstance(tree, dict):
        if isinstance(tree.get("class"), str):
            yield tree
            if tree["class"] == "SUBQUERY":
                return
        for part in tree.values():
            yield from _nodes(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from _nodes(part)


def first_lines(message: str) -> str:
    """A message without its kind in front, and the statement and all functions behind it."""
    text = re.split(r"\n\s*\n|\nLINE \d+:|\s+Candidate (?:functions|tables):", message)[0]
    text = re.sub(r"^[A-Z][A-Za-z ]+ Error: ", "", text)
    return " ".join(line.strip() for line in text.splitlines())
