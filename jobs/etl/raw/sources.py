"""The sources of a declaration and their raw files, listed once a pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.base.errors import ConfigError
from jobs.rows.judge.engine import Engine
from jobs.rows.judge.identity import Split
from jobs.rows.judge.parents import parent_rows
from jobs.rows.read.files import RawFile, find_files
from jobs.rows.read.pieces import Piece, cut
from jobs.settings.settings import Settings
from schemas.dataset import Dataset
from schemas.source import Join

# A task reads so much; small enough that tasks end at about the same time.
_PIECE_BYTES = 32 << 20


def source_paths(settings: Settings, dataset: Dataset) -> dict[str, str]:
    """Absolute path of each source of the declaration.

    Raises:
        ConfigError: etl.sources names another set of sources than the declaration.
    """
    declared, given = {source.name for source in dataset.sources}, set(settings.etl.sources)
    if declared != given:
        raise ConfigError(
            f"etl.sources has {', '.join(sorted(given)) or 'none'}",
            f"the declaration's sources: {', '.join(sorted(declared))}",
        )
    paths = {name: settings.path(path) for name, path in settings.etl.sources.items()}
    if dataset.ds is None and "{ds}" not in paths[dataset.rows]:
        raise ConfigError(
            f"neither declaration {dataset.name!r} nor etl.sources.{dataset.rows} says the date",
            remedy="give the declaration a `ds`, or put {ds} into the path",
        )
    return paths


@dataclass(frozen=True)
class RawSources:
    """The raw files of some dates.

    Attributes:
        files: of each source of the declaration.
    """

    dataset: Dataset
    dates: tuple[str, ...]
    files: Mapping[str, tuple[RawFile, ...]]

    @staticmethod
    def listed(dataset: Dataset, paths: Mapping[str, str], dates: Sequence[str]) -> RawSources:
        """Lists the files of each source.

        Raises:
            NoRawFile: a source, or a date of it, has none.
        """
        files = {name: find_files(path, dates) for name, path in paths.items()}
        if dataset.ds is not None:
            # Rows say their date themselves: a file that two dates' paths match is read once.
            by_path = {file.path: file for file in reversed(files[dataset.rows])}
            files[dataset.rows] = sorted(by_path.values(), key=lambda file: file.path)
        found = {name: tuple(own) for name, own in files.items()}
        return RawSources(dataset, tuple(sorted(dates)), found)

    @property
    def digest(self) -> str:
        """Of the names and stamps of the files."""
        names = sorted(
            (name, f.ds, f.path, f.stamp) for name, own in self.files.items() for f in own
        )
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]

    def pieces(self, with_label: bool = True) -> list[Piece]:
        """Those of the rows' files; without a label they may be without its columns.

        Raises:
            DataRefused: a file cannot be read, or has another header or schema than declared.
        """
        files = self.files[self.dataset.rows]
        return cut(files, self.dataset.row_source, _PIECE_BYTES, with_label)

    def large_parents(self, most_mb: int) -> list[Join]:
        """Joins whose parents' files are larger together than so much."""
        return [
            join
            for join in self.dataset.joins
            if sum(file.size_bytes for file in self.files[join.source]) > most_mb << 20
        ]

    def engine(self, split: Split | None, with_label: bool, most_mb: int) -> Engine:
        """The declaration's engine, with the rows of parents that are not large.

        Raises:
            DataRefused: a parent has malformed rows or repeats a key.
        """
        large = self.large_parents(most_mb)
        parents = {
            join.source: parent_rows(
                self.files[join.source], self.dataset.source(join.source), join
            )
            for join in self.dataset.joins
            if join not in large
        }
        return Engine(self.dataset, self.dates, parents, split, with_label)
