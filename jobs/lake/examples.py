"""A version of the examples table, and its shards as the manifests list them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jobs.base.errors import DataRefused
from jobs.lake.choice import Choice, Where
from jobs.lake.manifest import Shard, read_manifest
from jobs.lake.tables import Table


@dataclass(frozen=True)
class Examples:
    """A version of the examples table. Small to send: the manifest is read where it is used.

    Attributes:
        url: of the table.
        version: of the table.
    """

    url: str
    version: int

    @classmethod
    def open(cls, url: str, version: int | None = None) -> Examples:
        """The named or the newest version.

        Raises:
            DataRefused: there is no such table or version.
        """
        return cls(url, Table(url).version_at(version))

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the commit says: run, state by ds, declaration digest, versions of other tables.

        Raises:
            DataRefused: no run has committed yet.
        """
        info = Table(self.url).commit_info(self.version)
        if not info:
            # A run that died made the table, and no more.
            raise DataRefused(f"no run has committed to {self.url}", remedy="run the ETL first")
        return info

    def shards(
        self,
        split: str | None = None,
        first_ds: str | None = None,
        last_ds: str | None = None,
        where: Where | None = None,
    ) -> list[Shard]:
        """The version's shards that are chosen, in order of (ds, split, number).

        Raises:
            ConfigError: `where` names another column than ds or split.
        """
        choice = Choice.of(split, first_ds, last_ds, where)
        choice.check(("ds", "split"))
        return [
            shard for shard in self._shards if choice.takes({"ds": shard.ds, "split": shard.split})
        ]

    @cached_property
    def _shards(self) -> list[Shard]:
        live = {file.path for file in Table(self.url).files(self.version)}
        runs = sorted({Shard.run_of(path) for path in live})
        with ThreadPoolExecutor(16) as threads:
            manifests = list(threads.map(lambda run: read_manifest(self.url, run), runs))
        return sorted(shard for found in manifests for shard in found if shard.path in live)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_shards"}
