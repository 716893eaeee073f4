"""The settings from a YAML file, then `--set`; what is wrong is named with its place."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from jobs.base.errors import ConfigError
from jobs.settings.settings import Settings


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
        tree = _of_yaml(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file} is no YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} holds no settings", "a mapping with schema, lake and etl")
    for override in overrides:
        _override(tree, override)
    if "base" in tree:
        raise ConfigError(f"{file}: unknown setting 'base'{_nearest(('base',))}")
    tree["base"] = str(file.resolve().parent)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{file}: " + "\n  ".join(_explain(error))) from error


class _SettingsLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping: of two sections one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise ValueError(f"line {key.start_mark.line + 1}: {key.value!r} is there twice")
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _of_yaml(text: str) -> Any:
    """What a YAML text says.

    Raises:
        ValueError: it is no YAML, has a date or a number that there is not, or a key twice.
    """
    try:
        return yaml.load(text, _SettingsLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _override(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {override!r}", "--set section.key=value")
    *sections, key = name.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is a value, not a section")
    try:
        tree[key] = _of_yaml(text)
    except ValueError as error:
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
            yield f"{f'setting {place}: ' if place else ''}{message}{_found(problem, place)}"


def _found(problem: Mapping[str, Any], place: str) -> str:
    """The value that is wrong; not a whole section, and nothing that may hold a secret."""
    value = problem.get("input")
    if isinstance(value, Mapping | BaseModel) or place.endswith(("_url", "_env", "_uri")):
        return ""
    return f" (found {_short(value)})"


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
