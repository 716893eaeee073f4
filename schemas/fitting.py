"""Whether the parts of a declaration hold values of their types: Python itself checks none."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_NUMBERS: dict[Any, Any] = {int: Integral, float: Real}


def misfits(part: Any) -> Iterator[str]:
    """What is of another type than declared, in a part of a declaration and in its own parts."""
    kind = type(part).__name__
    named = f"{kind} {part.name!r}" if hasattr(part, "name") else kind
    for one in fields(part):
        value = getattr(part, one.name)
        if not _fits(value, _types_of(part.__class__)[one.name]):
            is_one = isinstance(value, str) and str(one.type).startswith("tuple")
            remedy = f"; with one value it is ({value!r},)" if is_one else ""
            yield f"{named}: {one.name} is {value!r}; it must be {one.type}{remedy}"
        elif isinstance(value, tuple | list):
            for inner in filter(is_dataclass, value):
                yield from misfits(inner)


@cache
def _types_of(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, wanted: Any) -> bool:
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        if inner[-1] is Ellipsis:
            return all(_fits(one, inner[0]) for one in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if wanted in _NUMBERS:
        return isinstance(value, _NUMBERS[wanted]) and not isinstance(value, bool)
    return isinstance(value, wanted) if isinstance(wanted, type) else True
