"""The body of an infer request over HTTP: JSON, and binary tensors behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from jobs.serve.request.errors import RequestError
from jobs.serve.request.tensors import NamedTensor, checked_shape, of_bytes, of_json

# Bytes of the JSON before binary tensors.
HEADER_LENGTH = "Inference-Header-Content-Length"
HEADER_TIMEOUT = "X-Request-Timeout-Ms"
_MOST_DIGITS = 18
_NO_JSON = "the body is no JSON that is taken here"


def split(
    content: bytes, header: str | None, read: Callable[[bytes], Any]
) -> tuple[Any, memoryview]:
    """The JSON, and the bytes of binary tensors behind it.

    Args:
        header: the value of `HEADER_LENGTH`; None where there are no binary tensors.
        read: makes a tree of JSON.

    Raises:
        RequestError: the header or the JSON is malformed.
    """
    if header is None:
        return read(content), memoryview(b"")
    size = _natural(header)
    if size is None or size > len(content):
        raise RequestError(f"{HEADER_LENGTH} must be the size of the JSON before the tensors")
    return read(content[:size]), memoryview(content)[size:]


def timeout_s(header: str | None) -> float:
    """How long a client waits.

    Args:
        header: the value of `HEADER_TIMEOUT`; None where there is none.

    Raises:
        RequestError: the header is malformed.
    """
    if header is None:
        return math.inf
    if not (milliseconds := _natural(header)):
        raise RequestError(f"{HEADER_TIMEOUT} must be a number of milliseconds")
    return milliseconds / 1000


def _natural(text: str) -> int | None:
    """The number that a header's digits mean; None where they are none, or too many."""
    known = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if known else None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def parsed(content: bytes, constant: Callable[[str], float] = _refuse_constant) -> Any:
    """The JSON.

    Args:
        constant: makes a number of NaN, Infinity and -Infinity, which are not JSON's.

    Raises:
        RequestError: it is none.
    """
    try:
        return json.loads(content, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(_NO_JSON) from error


def parsed_to_64_bits(content: bytes) -> Any:
    """The JSON in a quarter of the time; whole numbers of more than 64 bits become floating ones.

    Raises:
        RequestError: it is none.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise RequestError(_NO_JSON) from error


def tensors_of(tree: Any, binary: memoryview) -> list[NamedTensor]:
    """The inputs of a request's JSON, some of them in the bytes behind it.

    Raises:
        RequestError: they are not as the protocol says.
    """
    if not isinstance(tree, Mapping) or not isinstance(tree.get("inputs"), list):
        raise RequestError("a request needs a list of inputs")
    tensors: list[NamedTensor] = []
    place = 0
    for one in tree["inputs"]:
        size = parameters_of(one).get("binary_data_size")
        if size is None:
            tensors.append(of_json(one))
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not size >= 0:
            raise RequestError("binary_data_size must be a number of bytes")
        if place + size > len(binary):
            raise RequestError("there are fewer bytes than the inputs' binary_data_size say")
        name, datatype = one.get("name"), one.get("datatype")
        shape = checked_shape(name, datatype, one.get("shape"))
        tensors.append(of_bytes(name, datatype, shape, binary[place : place + size]))
        place += size
    if place != len(binary):
        raise RequestError("there are more bytes than the inputs' binary_data_size say")
    return tensors


def id_of(tree: Mapping[str, Any]) -> str | None:
    """The `id` of a request, which its answer repeats.

    Raises:
        RequestError: it is no text that can be written.
    """
    found = tree.get("id")
    if not isinstance(found, str):
        return None
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise RequestError("the request's id has a half of a pair of surrogates") from error
    return found


def parameters_of(tree: Any) -> Mapping[str, Any]:
    """The `parameters` of a request, an input or an output; none where they are no mapping."""
    found = tree.get("parameters") if isinstance(tree, Mapping) else None
    return found if isinstance(found, Mapping) else {}
