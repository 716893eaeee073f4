"""Writes docs/configuration.md from the settings tree: python -m tools.make_configuration"""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.settings.settings import Settings

TARGET = Path(__file__).parents[1] / "docs" / "configuration.md"

HEAD = """\
# Configuration

<!-- Written by tools/make_configuration.py from the settings tree; change that, not this. -->

One YAML file a data set, given with `--config`. Only `schema`, `lake` and `etl.sources` must be
there. An unknown key is refused, naming the nearest known one, and so is one that stands twice. A
section without lines has its defaults. Any setting can be given on the command line too, as `--set
SECTION.KEY=VALUE`, which wins; values are YAML. Paths are relative to the file. Secrets are no
settings: stores read their credentials from the environment, and a webhook whose URL holds one is
named by `observe.webhook_url_env`.

`millstream init --from data.csv` writes a first one ([quickstart.md](quickstart.md)).

| setting | type | meaning |
|---|---|---|
| `schema` | text | the declaration: `module:NAME`, or `./file.py:NAME` |
| `lake` | path or URL | where all that is written goes, in a folder for each data set |
"""


def configuration() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, field in Settings.model_fields.items():
        section = _model_of(field.annotation)
        if section is not None:
            parts.append("\n".join(_section(name, section)))
    return "\n".join(parts)


def _section(name: str, section: type[BaseModel]) -> Iterator[str]:
    yield f"## {name}"
    yield ""
    yield _in_one_line(section.__doc__)
    yield ""
    yield "| setting | type | default | meaning |"
    yield "|---|---|---|---|"
    inner = []
    for key, field in section.model_fields.items():
        yield f"| `{key}` | {_type(field)} | {_default(field)} | {_cell(field.description or '')} |"
        if (model := _model_of(field.annotation)) is not None:
            inner.append((f"{name}.{key}", model))
    yield ""
    for place, model in inner:
        yield from _section(place, model)


def _in_one_line(text: str | None) -> str:
    paragraphs = (text or "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in paragraphs)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a setting is, or is a list of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for part in get_args(annotation) if (m := _model_of(part))), None)


def _type(field: FieldInfo) -> str:
    limits = [text for limit in field.metadata for text in _limits(limit)]
    return _cell(", ".join([_type_name(field.annotation), *limits]))


def _type_name(annotation: Any) -> str:
    names: dict[Any, str] = {
        int: "whole number",
        float: "number",
        str: "text",
        bool: "true or false",
        Any: "value",
    }
    if annotation in names:
        return names[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [
            text
            for more in parts[1:]
            for limit in getattr(more, "metadata", [more])
            for text in _limits(limit)
        ]
        return ", ".join([_type_name(parts[0]), *limits])
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join("empty" if part is type(None) else _type_name(part) for part in parts)
    if origin in (tuple, list):
        inner = _type_name(parts[0])
        return f"list of ({inner})" if "," in inner else f"list of {inner}"
    if origin is dict:
        return f"mapping from {_type_name(parts[0])} to {_type_name(parts[1])}"
    return "section" if _model_of(annotation) else str(annotation)


def _limits(limit: Any) -> Iterator[str]:
    match limit:
        case annotated_types.Ge(ge=least):
            yield f"at least {least}"
        case annotated_types.Gt(gt=least):
            yield f"above {least}"
        case annotated_types.Le(le=most):
            yield f"at most {most}"
        case annotated_types.Lt(lt=most):
            yield f"below {most}"
        case annotated_types.MinLen(min_length=least):
            yield f"{least} or more"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    if value is None or value in ("", (), {}):
        return "empty"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    TARGET.write_text(configuration(), encoding="utf-8")
