"""Tables in files: any number of ranks reads what any other wrote; damage is named."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from jobs.models.mapped import MappedTable
from jobs.models.tables.buckets import Buckets
from jobs.models.tables.pieces import (
    StoredTable,
    TableFiles,
    joined,
    piece_file,
    write_piece,
    write_table,
)
from jobs.stores.tensors import Torn

NAME = "net.tables.0.weight"


def written(folder: Path, values: dict[str, torch.Tensor], count: int, ranks: int) -> StoredTable:
    buckets, parts = Buckets(len(values["rows"]), count), []
    for rank in range(ranks):
        path = folder / piece_file(NAME, rank, ranks)
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = buckets.ids(rank, ranks)
        piece = {name: of.index_select(0, ids) for name, of in values.items()}
        with path.open("wb") as file:
            parts.append(write_piece(file, NAME, buckets, rank, ranks, piece))
    return joined(parts)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 200),
    count=st.integers(1, 40),
    ranks=st.integers(1, 9),
    others=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_any_number_of_ranks_reads_what_any_other_wrote(
    rows: int, count: int, ranks: int, others: int, dtype: torch.dtype
) -> None:
    ranks, others = min(ranks, count), min(others, count)
    values = {"rows": torch.randn(rows, 3).to(dtype), "sum": torch.randn(rows)}
    with TemporaryDirectory() as folder:
        table = written(Path(folder), values, count, ranks)
        again = StoredTable.from_json(table.to_json())
        files = TableFiles(Path(folder), again)
        files.verify()
        for rank in range(others):
            ids = table.buckets.ids(rank, others)
            for name, of in values.items():
                assert torch.equal(files.piece(rank, others, name), of[ids])
        assert torch.equal(files.whole(), values["rows"])
        asked = torch.randint(0, rows, (4, 5))
        assert torch.equal(MappedTable(files)(asked), values["rows"][asked])
        # One that another number of ranks wrote is the same table.
        elsewhere = written(Path(folder), values, count, others)
        assert [elsewhere.digest(name) for name in values] == [table.digest(n) for n in values]


def test_the_files_are_safetensors(tmp_path: Path) -> None:
    rows = torch.randn(10, 4)
    table = write_table(tmp_path, NAME, rows, 3)
    (file,) = table.files
    found = load_file(tmp_path / file)["rows"]
    assert torch.equal(found, rows[table.buckets.ids(0, 1)])


@pytest.mark.parametrize("place", [3, 30, -1, -40])
def test_a_flipped_bit_is_named(tmp_path: Path, place: int) -> None:
    table = write_table(tmp_path, NAME, torch.randn(10, 4), 3)
    path = tmp_path / table.files[0]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(Torn, match="buckets-0-of-1"):
        TableFiles(tmp_path, table).verify()


def test_a_torn_and_a_missing_file_are_named(tmp_path: Path) -> None:
    table = write_table(tmp_path, NAME, torch.randn(10, 4), 3)
    path = tmp_path / table.files[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Torn, match=r"buckets-0-of-1.*bytes"):
        TableFiles(tmp_path, table)
    path.unlink()
    with pytest.raises(Torn, match="missing"):
        TableFiles(tmp_path, table)


def test_an_id_outside_the_table_is_no_other_row(tmp_path: Path) -> None:
    found = MappedTable(TableFiles(tmp_path, write_table(tmp_path, NAME, torch.ones(10, 4), 3)))
    for outside in (-1, 10):
        with pytest.raises(IndexError, match="outside"):
            found(torch.tensor([0, outside]))
