"""Spark's daemon of Python workers, which are forks of it, with what their steps import.

It takes the place of `pyspark.daemon` where Millstream starts Spark on this machine: workers need
not import torch and all else one by one.
"""

from __future__ import annotations

import gc
import importlib
import os
from contextlib import suppress

from pyspark.daemon import manager

MODULES = "MILLSTREAM_WORKER_MODULES"


def import_all() -> None:
    """Imports the modules that the environment names; a step that lacks one says so itself."""
    for name in filter(None, os.environ.get(MODULES, "").split(",")):
        with suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    import_all()
    manager()  # type: ignore[no-untyped-call]
