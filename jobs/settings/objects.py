"""Objects that settings name: a declaration, or a model, by module or by file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from jobs.base.errors import ConfigError

_loading = threading.RLock()


def load_object(reference: str, base: str) -> Any:
    """The object that `module:NAME` or `./file.py:NAME` names.

    Args:
        reference: a module of the Python path, or a file relative to `base`.
        base: folder of the settings file.

    Raises:
        ConfigError: no such file, module or name.
    """
    place, _, name = reference.rpartition(":")
    is_file = place.endswith(".py")
    if not name or not (is_file or all(part.isidentifier() for part in place.split("."))):
        raise ConfigError(f"{reference!r} names no object", "module:NAME or ./file.py:NAME")
    try:
        module = _load_file(place, base) if is_file else importlib.import_module(place)
        return getattr(module, name)
    except SyntaxError as error:
        raise ConfigError(
            f"{reference!r} cannot be loaded: {error.filename}, line {error.lineno}: {error.msg}",
            "Python that can be read",
        ) from error
    except ValueError as error:
        raise ConfigError(f"{reference!r} cannot be used: {error}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{reference!r} cannot be loaded: {_told(error)}", "module:NAME or ./file.py:NAME"
        ) from error


def _told(error: BaseException) -> str:
    """An error with the line of the module that led to it, where one did."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{f.filename}, line {f.lineno}: " for f in frames if f.name == "<module>"]
    return f"{lines[-1]}{type(error).__name__}: {error}" if lines else str(error)


def source_of(reference: str, base: str) -> str:
    """What a reference's code is, without importing it: a digest of its file.

    Of a module of an installed distribution also that one's name and version.

    Args:
        reference, base: as of `load_object`.

    Raises:
        ConfigError: no such file or module.
    """
    place = reference.rpartition(":")[0]
    try:
        if place.endswith(".py"):
            return _digest(Path(base, place).read_bytes())
        spec = _found(place)
        assert spec.loader is not None and spec.origin is not None
        content = spec.loader.get_data(spec.origin)  # type: ignore[attr-defined]
        return " ".join([*_distributions(place.partition(".")[0]), _digest(content)])
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"{reference!r} cannot be found: {error}", "module:NAME or ./file.py:NAME"
        ) from error


def _found(module: str) -> ModuleSpec:
    """Where a module is; packages above it are not imported, as `find_spec` would."""
    top, *parts = module.split(".")
    spec, name = importlib.util.find_spec(top), top
    for part in parts:
        name = f"{name}.{part}"
        within = spec.submodule_search_locations if spec else None
        spec = PathFinder.find_spec(name, list(within)) if within else None
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {module}")
    return spec


def _distributions(package: str) -> list[str]:
    names = sorted(set(metadata.packages_distributions().get(package, ())))
    return [f"{name} {metadata.version(name)}" for name in names]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _load_file(place: str, base: str) -> Any:
    path = Path(base, place).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while it runs. Afterwards it is no module that another
    # process could import, so what it holds is sent by value. Threads load files one by one: each
    # would take away what another one's dataclasses look for.
    with _loading, _importable(module):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _importable(module: ModuleType) -> Iterator[None]:
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        del sys.modules[module.__name__]
        if before is not None:
            sys.modules[module.__name__] = before
