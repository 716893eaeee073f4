"""HTML pages that stand alone: templates with one frame and style, every text escaped."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

__all__ = ["Markup", "render"]


def render(template: str, **values: object) -> str:
    """The page of a template of this folder.

    Args:
        values: texts are escaped; `Markup` is HTML already.
    """
    return _ENVIRONMENT.get_template(template).render(values)


def _source(name: str) -> str:
    # Also where the code is a zip, as Spark ships it.
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


_ENVIRONMENT = Environment(
    loader=FunctionLoader(_source),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["thousands"] = lambda count: f"{count:,}"
