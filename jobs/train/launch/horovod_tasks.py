"""Horovod's tasks in Spark, without what each would wait for or load for nothing: some 5 s.

Imported in Spark's tasks, so it must be light.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

Mapper = Callable[[int, Iterator[Any]], Iterator[Any]]


def quick(make_mapper: Callable[..., Mapper], *args: Any) -> Mapper:
    """What stands for Horovod's `_make_mapper` on the driver."""
    return partial(_mapped, make_mapper(*args))


def _mapped(mapper: Mapper, index: int, rows: Iterator[Any]) -> Iterator[Any]:
    with _lifetime_from_start(), _nameless_main():
        yield from mapper(index, rows)


@contextmanager
def _lifetime_from_start() -> Iterator[None]:
    """A task must not end in the first seconds of its rank, so that the driver can ask for its
    exit code. Horovod counts them from the rank's end, for which all then wait."""
    from horovod.runner.common.service.task_service import BasicTaskService
    from horovod.runner.common.util.timeout import Timeout
    from horovod.spark.task.task_service import SparkTaskService

    def run_command(self: Any, *args: Any, **kwargs: Any) -> None:
        self._minimum_command_lifetime = Timeout(self._minimum_command_lifetime_s, "")
        BasicTaskService._run_command(self, *args, **kwargs)

    with replaced(SparkTaskService, "_run_command", run_command):
        yield


@contextmanager
def _nameless_main() -> Iterator[None]:
    """Otherwise the process between a task and its rank imports the task's main module, which is
    pyspark's: a second or two."""
    main = sys.modules["__main__"]
    with replaced(main, "__spec__", None), replaced(main, "__file__", None):
        yield


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Runs a block in which an attribute has another value."""
    before = getattr(owner, name, None)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
