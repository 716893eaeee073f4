"""Columns of a request to `/invocations`, as MLflow's clients write them.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from jobs.serve.request.errors import RequestError
from jobs.serve.request.rows import Values


def invoked_columns(tree: Any, check: Callable[[Collection[str], int], None]) -> dict[str, Values]:
    """Columns of MLflow's request: `dataframe_split`, `dataframe_records` or `inputs`.

    Args:
        check: refuses names and a number of rows. A column is made of each name in any record, so
            a short request could make long ones.

    Raises:
        RequestError: it has none of them, or not as MLflow writes them.
    """
    tree = tree if isinstance(tree, Mapping) else {}
    split, records = tree.get("dataframe_split"), tree.get("dataframe_records")
    if isinstance(split, Mapping):
        names, rows = split.get("columns") or [], split.get("data") or []
        if _is_names(names) and _is_rows(rows, list) and {len(row) for row in rows} <= {len(names)}:
            return {name: [row[place] for row in rows] for place, name in enumerate(names)}
    elif _is_rows(records, dict):
        names = dict.fromkeys(name for row in records for name in row)
        check(names, len(records))
        return {name: [row.get(name) for row in records] for name in names}
    elif isinstance(inputs := tree.get("inputs"), Mapping) and _is_rows([*inputs.values()], list):
        return dict(inputs)
    raise RequestError("give dataframe_split, dataframe_records, or inputs as lists by column")


def _is_names(names: Any) -> bool:
    texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return texts and len(set(names)) == len(names)


def _is_rows(rows: Any, kind: type) -> bool:
    return isinstance(rows, list) and bool(rows) and all(isinstance(row, kind) for row in rows)
