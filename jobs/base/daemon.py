"""Spark's daemon of Python workers, which are forks of it, with what their steps import.

It takes the place of `pyspark.daemon` where Millstream starts Spark on this machine: workers need
not import torch and all else one by one.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
from contextlib import suppress
from types import SimpleNamespace

from pyspark import daemon

MODULES = "MILLSTREAM_WORKER_MODULES"


def import_all() -> None:
    """Imports the modules that the environment names; a step that lacks one says so itself."""
    for name in filter(None, os.environ.get(MODULES, "").split(",")):
        with suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def print_exc() -> None:
    """Prints why a worker ended, unless the JVM went first, which the driver tells of."""
    if not isinstance(sys.exc_info()[1], BrokenPipeError | ConnectionResetError):
        traceback.print_exc()


if __name__ == "__main__":
    import_all()
    daemon.traceback = SimpleNamespace(  # type: ignore[assignment, attr-defined]
        print_exc=print_exc, format_exc=traceback.format_exc
    )
    daemon.manager()  # type: ignore[no-untyped-call]
