"""Tensors of the protocol: what is written is read again, what is malformed is refused in words."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jobs.serve.request.errors import RequestError
from jobs.serve.request.tensors import (
    BYTES,
    DATATYPES,
    NamedTensor,
    as_bytes,
    as_json,
    checked_shape,
    of_bytes,
    of_json,
)


@given(st.data(), st.sampled_from(sorted(DATATYPES)))
def test_numbers_come_back_with_their_bits(data: st.DataObject, datatype: str) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    array = data.draw(hnp.arrays(DATATYPES[datatype], shape))
    tensor = NamedTensor("x", datatype, shape, array)
    found = of_bytes("x", datatype, shape, memoryview(as_bytes(tensor)))
    assert np.asarray(found.data).tobytes() == array.tobytes()
    assert np.asarray(found.data).shape == shape


@pytest.mark.parametrize("shape", [[0, 2**63], [0, 2**62, 2**62], [2**70], [1, 0, 2**49]])
def test_shapes_that_no_array_has_are_refused(shape: list[int]) -> None:
    with pytest.raises(RequestError, match="shape is too large"):
        checked_shape("x", "FP32", shape)


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_texts_come_back(texts: list[bytes]) -> None:
    tensor = NamedTensor("x", BYTES, (len(texts),), texts)
    assert of_bytes("x", BYTES, (len(texts),), memoryview(as_bytes(tensor))).data == texts


@given(st.lists(st.floats(width=32), min_size=1, max_size=6))
def test_json_has_null_for_what_is_no_number(values: list[float]) -> None:
    array = np.array(values, np.float32)
    tree = json.loads(json.dumps(as_json(NamedTensor("x", "FP32", (len(values),), array))))
    wanted = [v if math.isfinite(v) else None for v in values]
    assert tree["data"] == wanted


@given(st.binary(max_size=40), st.sampled_from([BYTES, *DATATYPES]), st.integers(0, 6))
def test_any_bytes_are_a_tensor_or_refused(content: bytes, datatype: str, rows: int) -> None:
    try:
        found = of_bytes("x", datatype, (rows,), memoryview(content))
    except RequestError as error:
        assert str(error)
    else:
        assert as_bytes(found) == content


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=8)


@given(TREES, st.sampled_from([BYTES, *DATATYPES, "INT65"]), st.lists(st.integers(-1, 4)))
def test_any_json_is_a_tensor_or_refused(data: Any, datatype: str, shape: list[int]) -> None:
    try:
        found = of_json({"name": "x", "datatype": datatype, "shape": shape, "data": data})
    except RequestError as error:
        assert str(error)
    else:
        assert math.prod(found.shape) == len(list(np.asarray(found.data, object).reshape(-1)))


@pytest.mark.parametrize(
    ("name", "datatype", "shape"),
    [
        ("", "FP32", [1]),
        ("x" * 300, "FP32", [1]),
        (7, "FP32", [1]),
        ("x", "FP33", [1]),
        ("x", "FP32", []),
        ("x", "FP32", "1"),
        ("x", "FP32", [-1]),
        ("x", "FP32", [True]),
        ("x", "FP32", [1.5]),
        ("x", "FP32", [1] * 9),
    ],
)
def test_shapes_and_names_are_checked(name: Any, datatype: Any, shape: Any) -> None:
    with pytest.raises(RequestError):
        checked_shape(name, datatype, shape)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 1e300])
def test_what_does_not_fit_is_refused(value: Any) -> None:
    datatype = "INT64" if isinstance(value, int) else "INT8"
    with pytest.raises(RequestError):
        of_json({"name": "x", "datatype": datatype, "shape": [1], "data": [value]})
