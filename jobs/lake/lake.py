"""Where the tables and artifacts of a data set are."""

from __future__ import annotations

from typing import Literal

from jobs.lake.tables import Table

TableName = Literal[
    "examples", "quarantine", "contributions", "id_log", "judged", "predictions", "ledger", "served"
]


class Lake:
    """Where the tables and artifacts of one data set are."""

    def __init__(self, root: str, dataset: str) -> None:
        self.url = f"{root.rstrip('/')}/{dataset}"

    def table(
        self,
        name: TableName,
    ) -> Table:
        return Table(f"{self.url}/{name}")

    def folder(self, *names: str) -> str:
        return "/".join([self.url, *names])
