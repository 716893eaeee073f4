"""Others' folders of Parquet by Arrow alone, and their rows as the stream gives them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from jobs.batch.batch import Batch
from jobs.train.read.folder import Folder
from jobs.train.read.stream import Stream


def stream_of(folder: Folder, **changes: Any) -> Stream:
    settings = {"split": None, "batch_rows": 8, "streams": 4, "window_rows": 10, **changes}
    return Stream(folder, folder.dataset, **settings)


def rows_of(folder: Folder, **changes: Any) -> Batch:
    """All rows of an epoch, in order of their row ids; fails where one comes twice."""
    batches = list(stream_of(folder, **changes).epoch(0))
    names = ("dense", "sparse", "label", "weight", "row_id", "is_row", "position")
    whole = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
    tensors = {
        name: torch.cat([batch.tensors[name] for batch in batches]) for name in batches[0].tensors
    }
    order = whole["row_id"].argsort()
    rows = Batch(**{n: t[order] for n, t in whole.items()}, tensors={
        n: t[order] for n, t in tensors.items()
    })  # fmt: skip
    assert bool(rows.is_row.all())
    assert len(rows.row_id.unique()) == len(rows)
    return rows


def table(first: int, rows: int) -> pa.Table:
    ids = np.arange(first, first + rows)
    return pa.table(
        {
            "id": ids,
            "x": pa.array(ids / 4, mask=ids % 5 == 0),
            "n": pa.array(ids * 3, pa.int32()),
            "money": pa.array([Decimal(int(i)) / 8 for i in ids], pa.decimal128(12, 3)),
            "ad": pa.array(ids % 7 + 1),
            "clicked": ids % 2 == 1,
            "city": pa.array([f"c{i % 3}" for i in ids]).dictionary_encode(),
            "point": pa.FixedSizeListArray.from_arrays(np.repeat(ids / 2, 2), 2),
            "seen": pa.array(ids, pa.timestamp("us")),
        }
    )


ROLES: dict[str, Any] = {"label": "clicked", "sparse": ["ad"], "key": "id"}


def write_plain(root: Path) -> Path:
    """100 rows by Arrow alone: day=1 with 40 rows in groups of 15, day=2 in two files."""
    places = [("day=1", 0, 40), ("day=2", 40, 35), ("day=2", 75, 25)]
    for folder, first, rows in places:
        (root / folder).mkdir(parents=True, exist_ok=True)
        pq.write_table(table(first, rows), root / folder / f"{first}.parquet", row_group_size=15)
    (root / "_SUCCESS").touch()
    (root / "day=1" / ".0.parquet.crc").touch()
    return root


def check_plain(rows: Batch, ids: np.ndarray) -> None:
    assert rows.row_id.tolist() == ids.tolist()
    x = np.where(ids % 5 == 0, np.nan, ids / 4)
    wanted = np.stack([x, ids * 3.0, ids / 8], axis=1).astype(np.float32)
    np.testing.assert_array_equal(rows.dense.numpy(), wanted)
    assert rows.sparse[:, 0].tolist() == (ids % 7 + 1).tolist()
    assert rows.label.tolist() == (ids % 2).tolist()
    assert rows.tensors["point"].tolist() == [[i / 2, i / 2] for i in ids]
