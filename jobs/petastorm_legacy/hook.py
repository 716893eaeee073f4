"""The hook that gives the modules of the package `petastorm`, and nobody else, what they miss.

Petastorm 0.12 was written for Arrow < 15 and NumPy < 2. An import hook loads its modules with an
`__import__` of their own, which hands them thin copies of `pyarrow`, `pyarrow.parquet` and `numpy`
that have the removed names besides the real ones. Interpreters that Petastorm's process pool or
Spark start for Petastorm get the hook by a folder in their PYTHONPATH.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet

from jobs.petastorm_legacy import dataset, files, partitions

FOLDER = str(Path(__file__).with_name("path"))

# Functions that run other functions of Petastorm's in Spark's Python workers, and the argument
# that is, or has, the Spark context.
_USE_SPARK = {
    "petastorm.etl.dataset_metadata": ("_init_spark", "spark"),
    "petastorm.etl.rowgroup_indexing": ("build_rowgroup_index", "spark_context"),
    "petastorm.spark_utils": ("dataset_as_rdd", "spark_session"),
}


class _Facade(ModuleType):
    """A module with some names of its own; all others are the real module's, if there is one."""

    def __init__(self, name: str, real: ModuleType | None, names: Mapping[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(names)
        self.__dict__["_real"] = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)

    def __reduce__(self) -> tuple[Callable[[str], ModuleType], tuple[str]]:
        # Spark sends functions of Petastorm's to its workers together with the modules they use.
        return facade, (self.__name__,)


def facade(name: str) -> ModuleType:
    """What Petastorm's modules see under the name of a module."""
    return _FACADES[name]


def _python_path(before: str | None) -> str:
    rest = [part for part in (before or "").split(os.pathsep) if part and part != FOLDER]
    return os.pathsep.join([FOLDER, *rest])


def _popen(args: Any, **options: Any) -> Any:
    """`subprocess.Popen` of an interpreter that has the hook too."""
    env = dict(options.pop("env", None) or os.environ)
    env["PYTHONPATH"] = _python_path(env.get("PYTHONPATH"))
    return subprocess.Popen(args, env=env, **options)


def _in1d(values: npt.ArrayLike, wanted: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    return np.isin(np.ravel(values), wanted)


def _facades() -> dict[str, ModuleType]:
    systems = {"FileSystem": files.FileSystem, "LocalFileSystem": files.LocalFileSystem}
    hadoop = {"HadoopFileSystem": files.HadoopFileSystem, "connect": files.connect}
    parquet = {
        "ParquetDataset": dataset.ParquetDataset,
        "ParquetDatasetPiece": dataset.ParquetDatasetPiece,
        "ParquetPartitions": partitions.ParquetPartitions,
        "PartitionSet": partitions.PartitionSet,
    }
    arrow = {
        "filesystem": _Facade("pyarrow.filesystem", None, systems),
        "hdfs": _Facade("pyarrow.hdfs", None, hadoop),
        "parquet": _Facade("pyarrow.parquet", pyarrow.parquet, parquet),
    }
    removed = {"unicode_": np.str_, "string_": np.bytes_, "float": float, "in1d": _in1d}
    return {
        "pyarrow": _Facade("pyarrow", pyarrow, {**arrow, **systems, "localfs": files.LOCAL}),
        **{module.__name__: module for module in arrow.values()},
        "numpy": _Facade("numpy", np, removed),
        "subprocess": _Facade("subprocess", subprocess, {"Popen": _popen}),
    }


class _Loader(SourceFileLoader):
    """Runs a module of Petastorm's with the facades in the place of the modules it imports."""

    def exec_module(self, module: ModuleType) -> None:
        code = self.get_code(module.__name__)
        assert isinstance(code, CodeType)
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
        exec(code, module.__dict__)
        if module.__name__ in _USE_SPARK:
            name, argument = _USE_SPARK[module.__name__]
            setattr(module, name, _with_hook_in_workers(getattr(module, name), argument))


def _import(
    name: str,
    globals_: Mapping[str, Any] | None = None,
    locals_: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    # `import a.b` binds a; `from a.b import c` and `import a.b as c` look into a.b.
    wanted = name if fromlist else name.partition(".")[0]
    if level == 0 and wanted in _FACADES:
        if name not in _FACADES or _FACADES[name].__dict__["_real"] is not None:
            builtins.__import__(name, globals_, locals_, fromlist or (), level)
        return _FACADES[wanted]
    return builtins.__import__(name, globals_, locals_, fromlist or (), level)


def _with_hook_in_workers(function: Callable[..., Any], argument: str) -> Callable[..., Any]:
    """The function, which first makes Spark start its Python workers with the hook."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapped(*args: Any, **named: Any) -> Any:
        spark = signature.bind(*args, **named).arguments[argument]
        environment = getattr(spark, "sparkContext", spark).environment
        environment["PYTHONPATH"] = _python_path(environment.get("PYTHONPATH"))
        return function(*args, **named)

    return wrapped


class _Finder(MetaPathFinder):
    """Finds the modules of the package `petastorm` only."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "petastorm":
            return None
        if path is None:
            path = [entry for entry in sys.path if entry != FOLDER]
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


def install() -> None:
    """Puts the hook in place, once a process; refuses where Petastorm is imported already."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    if "petastorm" in sys.modules:
        raise ImportError("petastorm was imported before jobs.petastorm_arrow; import it after")
    sys.meta_path.insert(0, _Finder())


_FACADES = _facades()
