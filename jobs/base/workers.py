"""Steps in Python workers of Spark, without what each task would pay anew for a large process.

Before a task Python reads the directories of all zip archives of its path again, Spark's jars among
them, and after it collects garbage among all objects that imports have made: some 100 ms together.
"""

from __future__ import annotations

import gc
import sys
import zipimport
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

# From Arrow batches to Arrow batches, of a task.
Batches = Callable[[Iterator["pa.RecordBatch"]], Iterable["pa.RecordBatch"]]

_modules = 0


def in_workers(rows: DataFrame, step: Batches, schema: StructType | str) -> DataFrame:
    """What a step makes of the rows of each task, in Python workers.

    Args:
        schema: of what it makes.
    """
    names = rows.columns
    if any(mark in name for name in names for mark in ".`"):
        # Spark looks its own columns up by name, in which these would mean something.
        rows = rows.toDF(*(f"_{place}" for place in range(len(names))))
        step = partial(_renamed, step, names)
    return rows.mapInArrow(partial(_run, step), schema)


def _renamed(
    step: Batches, names: list[str], batches: Iterator[pa.RecordBatch]
) -> Iterable[pa.RecordBatch]:
    return step(batch.rename_columns(names) for batch in batches)


def _run(step: Batches, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    _read_archives_once()
    yield from step(batches)
    _settle()


def _settle() -> None:
    """Takes what imports made out of later collections."""
    global _modules
    if len(sys.modules) > _modules:
        _modules = len(sys.modules)
        gc.collect()
        gc.freeze()


def _read_archives_once() -> None:
    """Lets archives that did not change be, as Python 3.12 does of itself."""
    if sys.version_info < (3, 12):
        zipimport.zipimporter.invalidate_caches = _if_changed  # type: ignore[assignment,method-assign]


_read = zipimport.zipimporter.invalidate_caches
_read_at: WeakKeyDictionary[zipimport.zipimporter, int] = WeakKeyDictionary()


def _if_changed(importer: zipimport.zipimporter) -> None:
    try:
        changed_at = Path(importer.archive).stat().st_mtime_ns
    except OSError:
        changed_at = 0
    if _read_at.get(importer) != changed_at:
        _read_at[importer] = changed_at
        _read(importer)
