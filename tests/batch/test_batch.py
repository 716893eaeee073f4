"""The one conversion from Arrow to tensors: every value, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.base.errors import ConfigError, DataRefused
from jobs.batch.batch import Batch
from jobs.batch.layout import Layout, batch_from_arrow
from schemas.dataset import Dataset
from schemas.field import Image, Label, Numeric, Tensor
from tests.builders.examples import CLICKS, columns_of

DIGITS = Dataset(
    name="digits",
    sources=CLICKS.sources,
    rows="clicks",
    key=("user",),
    fields=(
        Label("clicked"),
        Tensor("vector", shape=(2, 3)),
        Image("grey", shape=(5, 7)),
        Image("colour", shape=(4, 3, 3)),
        Numeric("age"),
    ),
)


def table(rows: int = 10) -> pa.Table:
    return columns_of(np.arange(rows))


def changed(name: str, column: pa.Array) -> pa.Table:
    rows = table(len(column))
    return rows.set_column(rows.schema.get_field_index(name), name, column)


def test_every_value_reaches_its_place() -> None:
    rows = table(20)

    batch = batch_from_arrow(rows, CLICKS)

    for column, name in enumerate(["age", "price"]):
        expected = [np.nan if v is None else v for v in rows[name].to_pylist()]
        np.testing.assert_array_equal(batch.dense[:, column], np.float32(expected))
    for column, name in enumerate(["ad", "site", "city_id"]):
        assert batch.sparse[:, column].tolist() == rows[name].to_pylist()
    assert batch.label.tolist() == rows["clicked"].to_pylist()
    assert batch.weight.tolist() == rows["importance"].to_pylist()
    assert batch.row_id.tolist() == batch.position.tolist() == list(range(20))
    assert batch.rows == len(batch) == 20
    dtypes = [batch.dense.dtype, batch.sparse.dtype, batch.label.dtype, batch.row_id.dtype]
    assert dtypes == [torch.float32, torch.int64, torch.float32, torch.int64]


def test_a_missing_number_is_nan_and_only_that() -> None:
    batch = batch_from_arrow(table(20), CLICKS)

    assert batch.dense.isnan().any(dim=1).tolist() == [row % 7 == 3 for row in range(20)]


def test_row_ids_keep_all_64_bits() -> None:
    ids = [-(2**63), -1, 2**63 - 1, 2**32 + 5, 0]

    batch = batch_from_arrow(changed("row_id", pa.array(ids, pa.int64())), CLICKS)

    assert batch.row_id.tolist() == ids


def test_chunks_of_a_table_are_one_batch() -> None:
    rows = table(20)
    chunked = pa.concat_tables([rows.slice(0, 3), rows.slice(3, 11), rows.slice(14)])

    assert equal(batch_from_arrow(chunked, CLICKS), batch_from_arrow(rows, CLICKS))
    assert equal(batch_from_arrow(rows.to_batches()[0], CLICKS), batch_from_arrow(rows, CLICKS))


def test_no_rows_make_an_empty_batch() -> None:
    batch = batch_from_arrow(table(0), CLICKS)

    assert (len(batch), batch.rows, tuple(batch.dense.shape)) == (0, 0, (0, 2))


def test_scoring_needs_no_label_and_no_weight() -> None:
    inputs = table().drop_columns(["clicked", "importance"])
    batch = batch_from_arrow(inputs, CLICKS, with_label=False)

    assert batch.label.isnan().all()
    assert batch.weight.tolist() == [1.0] * 10


def test_weights_are_one_where_none_is_declared() -> None:
    unweighted = replace(CLICKS, fields=tuple(f for f in CLICKS.fields if f.name != "importance"))

    assert batch_from_arrow(table(), unweighted).weight.tolist() == [1.0] * 10


def test_padding_is_zeros_of_weight_zero_and_no_row() -> None:
    padding = Layout(CLICKS).padding()

    assert (len(padding), padding.rows, padding.position.tolist()) == (1, 0, [-1])
    for name in ("dense", "sparse", "label", "weight", "row_id"):
        assert not getattr(padding, name).any()


def test_fewer_columns_are_read_and_given() -> None:
    layout = Layout(CLICKS, columns=["price", "site"])

    batch = layout.batch(layout.encode(table().to_batches()[0]), np.arange(10))

    assert layout.columns == ["row_id", "clicked", "importance", "price", "site"]
    assert (batch.dense.shape[1], batch.sparse.shape[1]) == (1, 1)
    assert batch.sparse[:, 0].tolist() == table()["site"].to_pylist()


def test_a_column_that_is_no_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="column 'city' is no input"):
        Layout(CLICKS, columns=["age", "city"])


def test_an_absent_column_is_named() -> None:
    with pytest.raises(DataRefused, match="no column 'site' among"):
        batch_from_arrow(table().drop_columns(["site"]), CLICKS)


def test_a_null_id_is_refused_naming_the_column() -> None:
    with pytest.raises(DataRefused, match="column 'ad' has 1 nulls"):
        batch_from_arrow(changed("ad", pa.array([1, None, 3], pa.int32())), CLICKS)


def test_another_type_is_converted_or_refused() -> None:
    wide = batch_from_arrow(changed("ad", pa.array([1, 2, 3], pa.int64())), CLICKS)
    assert wide.sparse[:, 0].tolist() == [1, 2, 3]

    with pytest.raises(DataRefused, match="column 'ad' is int64"):
        batch_from_arrow(changed("ad", pa.array([1, 2, 2**40], pa.int64())), CLICKS)


def tensors(rows: int = 4) -> tuple[pa.Table, dict[str, np.ndarray]]:
    random = np.random.default_rng(3)
    made = {
        "vector": random.random((rows, 2, 3), np.float32),
        "grey": random.integers(0, 256, (rows, 5, 7), np.uint8),
        "colour": random.integers(0, 256, (rows, 4, 3, 3), np.uint8),
    }
    # OpenCV's channels are in the order blue, green, red.
    stored = {
        "vector": [list(vector.reshape(-1)) for vector in made["vector"]],
        "grey": [cv2.imencode(".png", image)[1].tobytes() for image in made["grey"]],
        "colour": [cv2.imencode(".png", i[:, :, ::-1])[1].tobytes() for i in made["colour"]],
    }
    table = pa.table(
        {
            "row_id": pa.array(range(rows), pa.int64()),
            "user": [str(row) for row in range(rows)],
            "clicked": pa.array([1.0] * rows, pa.float32()),
            "vector": pa.array(stored["vector"], pa.list_(pa.float32())),
            "grey": stored["grey"],
            "colour": stored["colour"],
            "age": pa.array(range(rows), pa.float32()),
        }
    )
    return table, made


def test_tensors_and_images_keep_shape_and_values() -> None:
    rows, made = tensors()

    batch = batch_from_arrow(rows, DIGITS)

    for name, values in made.items():
        np.testing.assert_array_equal(batch.tensors[name].numpy(), values)
    assert batch.tensors["vector"].dtype == torch.float32
    assert batch.tensors["grey"].dtype == torch.uint8
    assert batch.dense[:, 0].tolist() == [0, 1, 2, 3]


def test_a_tensor_of_another_length_is_refused() -> None:
    rows, _ = tensors(2)
    index = rows.schema.get_field_index("vector")
    short = pa.array([[1.0] * 5, [1.0] * 7], pa.list_(pa.float32()))

    with pytest.raises(DataRefused, match="tensor 'vector' has rows of other lengths"):
        batch_from_arrow(rows.set_column(index, "vector", short), DIGITS)


def test_an_image_of_another_shape_is_refused() -> None:
    rows, _ = tensors(1)
    index = rows.schema.get_field_index("grey")
    image = cv2.imencode(".png", np.zeros((7, 5), np.uint8))[1].tobytes()

    with pytest.raises(DataRefused, match=r"an image of 'grey' has shape \(7, 5\)"):
        batch_from_arrow(rows.set_column(index, "grey", pa.array([image])), DIGITS)


def test_what_is_no_image_is_refused() -> None:
    rows, _ = tensors(1)
    index = rows.schema.get_field_index("grey")

    with pytest.raises(DataRefused, match="an image of 'grey' cannot be decoded"):
        batch_from_arrow(rows.set_column(index, "grey", pa.array([b"no PNG"])), DIGITS)


def test_a_batch_moves_and_is_cut_with_all_its_parts() -> None:
    rows, _ = tensors(4)
    batch = batch_from_arrow(rows, DIGITS)

    assert equal(batch.to("cpu"), batch)
    part = batch[1:3]
    assert part.row_id.tolist() == part.position.tolist() == [1, 2]
    assert torch.equal(part.tensors["grey"], batch.tensors["grey"][1:3])


def equal(one: Batch, other: Batch) -> bool:
    names = ("dense", "sparse", "label", "weight", "row_id", "is_row", "position")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    pairs += [(one.tensors[name], other.tensors[name]) for name in one.tensors]
    return all(torch.allclose(a, b, equal_nan=True) for a, b in pairs)
