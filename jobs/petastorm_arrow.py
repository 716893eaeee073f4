"""Petastorm 0.12 on today's Arrow and NumPy: the only module that imports Petastorm.

Petastorm was written for Arrow < 15 and NumPy < 2. Its modules, and nobody else's, are given the
names that those removed: an import hook loads the modules of the package `petastorm` with an
`__import__` of their own, which hands them thin copies of `pyarrow` and `numpy` that have those
names besides the real ones. Import this module before Petastorm; then a team's own Petastorm code
runs too.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.dataset import Dataset, StoredColumn
from schemas.field import Image


class _Facade(ModuleType):
    """A module with some names of its own; all others are the real module's."""

    def __init__(self, real: ModuleType, names: Mapping[str, Any]) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(names)
        self.__dict__["_real"] = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)


class LocalFileSystem:
    """Stands for the class of that name that Arrow removed."""


class HadoopFileSystem:
    """Stands for the class of that name that Arrow removed."""


def _facades() -> dict[str, ModuleType]:
    """What Petastorm's modules see under these names."""
    import pyarrow
    import pyarrow.parquet

    filesystem, hdfs = ModuleType("pyarrow.filesystem"), ModuleType("pyarrow.hdfs")
    filesystem.__dict__["LocalFileSystem"] = LocalFileSystem
    hdfs.__dict__["HadoopFileSystem"] = HadoopFileSystem
    names = {"LocalFileSystem": LocalFileSystem, "filesystem": filesystem, "hdfs": hdfs}
    numpy_names = {"unicode_": np.str_, "string_": np.bytes_, "float": float}
    return {
        "pyarrow": _Facade(pyarrow, names),
        "pyarrow.filesystem": filesystem,
        "pyarrow.hdfs": hdfs,
        "numpy": _Facade(np, numpy_names),
    }


class _Loader(SourceFileLoader):
    """Runs a module of Petastorm's with the facades in the place of the modules it imports."""

    def exec_module(self, module: ModuleType) -> None:
        code = self.get_code(module.__name__)
        assert isinstance(code, CodeType)
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
        exec(code, module.__dict__)


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
        if name not in _FACADES:
            importlib.import_module(name)
        return _FACADES[wanted]
    return builtins.__import__(name, globals_, locals_, fromlist or (), level)


class _Finder(MetaPathFinder):
    """Finds the modules of the package `petastorm` only."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "petastorm":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


def _install() -> None:
    """Puts the hook in place, once a process."""
    if any(type(finder).__name__ == "_Finder" for finder in sys.meta_path):
        return
    if "petastorm" in sys.modules:
        raise ImportError("petastorm was imported before jobs.petastorm_arrow; import it after")
    sys.meta_path.insert(0, _Finder())


_FACADES = _facades()
_install()

from petastorm.codecs import CompressedImageCodec, NdarrayCodec, ScalarCodec  # noqa: E402
from petastorm.unischema import Unischema, UnischemaField  # noqa: E402
from petastorm.workers_pool import EmptyResultError  # noqa: E402
from petastorm.workers_pool.thread_pool import ThreadPool  # noqa: E402
from petastorm.workers_pool.ventilator import ConcurrentVentilator  # noqa: E402
from petastorm.workers_pool.worker_base import WorkerBase  # noqa: E402


def unischema(dataset: Dataset) -> Any:
    """A data set's stored columns as Petastorm's Unischema."""
    return Unischema(dataset.name, [_unischema_field(c) for c in dataset.stored_columns()])


def _unischema_field(column: StoredColumn) -> Any:
    codec = CompressedImageCodec(column.image_format) if column.image_format else None
    dtype = np.dtype(column.numpy_dtype).type
    return UnischemaField(column.name, dtype, column.shape, codec, column.nullable)


def image_decoder(field: Image) -> Callable[[bytes], npt.NDArray[np.uint8]]:
    """A function from an image's bytes to its pixels, uint8 [H, W] or [H, W, 3], by the codec."""
    codec = CompressedImageCodec(field.format)
    column = UnischemaField(field.name, np.uint8, field.shape, codec, False)

    def decode(content: bytes) -> npt.NDArray[np.uint8]:
        return np.asarray(codec.decode(column, content), np.uint8)

    return decode


__all__ = [
    "CompressedImageCodec",
    "ConcurrentVentilator",
    "EmptyResultError",
    "NdarrayCodec",
    "ScalarCodec",
    "ThreadPool",
    "Unischema",
    "UnischemaField",
    "WorkerBase",
    "image_decoder",
    "unischema",
]
