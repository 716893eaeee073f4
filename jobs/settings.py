"""Settings: one frozen, typed tree from a YAML file, then `--set`. Units are in the names.

Paths in the file are relative to the file itself, so a command gives the same run from any
folder. Secrets are not settings: they come from the environment that the stores read.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from jobs.errors import ConfigError
from jobs.observe.settings import ObserveSettings
from jobs.sections import (
    EtlSettings,
    EvaluateSettings,
    GateSettings,
    MlflowSettings,
    NightlySettings,
    RetentionSettings,
    ScoreSettings,
    Section,
    SparkSettings,
    StreamSettings,
    TrainSettings,
)
from schemas.dataset import Dataset


class Settings(Section):
    """The whole tree. `base` is the folder that relative paths start from."""

    declaration: str = Field(alias="schema")
    lake: str
    etl: EtlSettings
    stream: StreamSettings = StreamSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    gate: GateSettings = GateSettings()
    score: ScoreSettings = ScoreSettings()
    nightly: NightlySettings = NightlySettings()
    retention: RetentionSettings = RetentionSettings()
    mlflow: MlflowSettings = MlflowSettings()
    observe: ObserveSettings = ObserveSettings()
    spark: SparkSettings = SparkSettings()
    base: str = Field(".", exclude=True)

    @field_validator("lake")
    @classmethod
    def _lake_is_named(cls, lake: str) -> str:
        if not lake.strip():
            raise ValueError("the lake's path is empty")
        return lake

    @model_validator(mode="after")
    def _batch_takes_equally_from_streams(self) -> Settings:
        if self.train.batch_rows % self.stream.streams:
            raise ValueError(
                f"train.batch_rows is {self.train.batch_rows}; it must be a multiple of "
                f"stream.streams ({self.stream.streams}), so that a batch takes equally from all"
            )
        return self

    @model_validator(mode="after")
    def _slow_store_is_named_before_ranks_are_lost(self) -> Settings:
        if self.stream.timeout_s >= self.train.stall_s:
            raise ValueError(
                f"stream.timeout_s is {self.stream.timeout_s:g}; it must be below train.stall_s "
                f"({self.train.stall_s}), or a slow store looks like a lost rank"
            )
        return self

    def path(self, path: str) -> str:
        """A path of the file as an absolute one; URLs (`s3://...`) stay."""
        if re.match(r"^[a-z][a-z0-9+.-]*://", path):
            return path
        return os.path.normpath(os.path.join(self.base, path))

    @property
    def lake_url(self) -> str:
        return self.path(self.lake)

    def dataset(self) -> Dataset:
        """The declaration that `schema` names."""
        found = load_object(self.declaration, self.base)
        if not isinstance(found, Dataset):
            raise ConfigError(
                f"schema {self.declaration!r} is a {type(found).__name__}",
                "a schemas.dataset.Dataset",
                "name the declaration, as in schemas.flights:FLIGHTS",
            )
        return found

    def digest(self) -> str:
        """Hex digest of all settings that results may follow from: not of who observes."""
        text = self.model_dump_json(by_alias=True, exclude={"observe"})
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_object(reference: str, base: str) -> Any:
    """The object that `module:NAME` or `./file.py:NAME` names.

    Args:
        reference: a module of the Python path, or a file relative to `base`.
        base: folder of the settings file.

    Raises:
        ConfigError: no such file, module or name.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise ConfigError(f"{reference!r} names no object", "module:NAME or ./file.py:NAME")
    try:
        module = (
            _load_file(place, base) if place.endswith(".py") else importlib.import_module(place)
        )
        return getattr(module, name)
    except (ImportError, FileNotFoundError, AttributeError) as error:
        raise ConfigError(
            f"{reference!r} cannot be loaded: {error}", "module:NAME or ./file.py:NAME"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{reference!r} cannot be used: {error}") from error


def _load_file(place: str, base: str) -> Any:
    path = Path(base, place).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while it runs. Afterwards it is no module that another
    # process could import, so what it holds is sent by value.
    with _importable(module):
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


def load_settings(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Settings:
    """Reads and checks a settings file.

    Args:
        path: the YAML file.
        overrides: `section.key=value` texts; values are YAML.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown, a value is wrong.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"no settings file {file}", remedy="give the path with --config")
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} holds no settings", "a mapping with schema, lake and etl")
    for override in overrides:
        _override(tree, override)
    tree["base"] = str(file.resolve().parent)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{file}: " + "\n  ".join(_explain(error))) from error


def _override(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {override!r}", "--set section.key=value")
    *sections, key = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is a value, not a section")
    try:
        tree[key] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is no YAML: {error}") from error


def _explain(error: ValidationError) -> Iterable[str]:
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield f"unknown setting {place!r}{_nearest(problem['loc'])}"
        elif problem["type"] == "missing":
            yield f"setting {place!r} is missing"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            yield f"setting {place or 'file'}: {message} (found {_short(problem.get('input'))})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest(place: tuple[int | str, ...]) -> str:
    known = _keys(Settings, [str(part) for part in place[:-1]])
    near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known here are {', '.join(known)}" if known else ""


def _keys(section: type[BaseModel], path: Sequence[str]) -> list[str]:
    fields: Mapping[str, Any] = section.model_fields
    if not path:
        return [f.alias or name for name, f in fields.items() if not f.exclude]
    inner = fields[path[0]].annotation if path[0] in fields else None
    return (
        _keys(inner, path[1:]) if isinstance(inner, type) and issubclass(inner, BaseModel) else []
    )
