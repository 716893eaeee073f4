"""Checkpoints of sharded tables: any ranks read them, and damage is named and passed over."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jobs.models.buckets import Buckets
from jobs.train.keep.checkpoint import Damaged
from jobs.train.keep.table_chain import (
    COMPLETE,
    Link,
    complete,
    newest_chain,
    read_piece,
    verified_chain,
)
from jobs.train.keep.table_parts import TablePiece, write_part

MOST = 10


class Training:
    """Tables that change from checkpoint to checkpoint, and what they held at each."""

    def __init__(self, folder: str, sizes: dict[str, int], count: int, seed: int = 1) -> None:
        self._folder, self._draw = folder, torch.Generator().manual_seed(seed)
        self.buckets = {name: Buckets(rows, count) for name, rows in sizes.items()}
        self.tables = {name: self._fresh(rows) for name, rows in sizes.items()}
        self.held: list[dict[str, dict[str, Tensor]]] = []
        self.links: list[Link] = []

    def _fresh(self, rows: int) -> dict[str, Tensor]:
        return {
            "rows": torch.randn(rows, 4, generator=self._draw),
            "sum": torch.rand(rows, generator=self._draw),
        }

    def checkpoint(self, ranks: int, share: float | None = None) -> str:
        """Writes one by some ranks; of a share of the rows, changed, or of all when None."""
        touched = {}
        for name, tensors in self.tables.items():
            rows = len(tensors["rows"])
            some = torch.rand(rows, generator=self._draw) < (1 if share is None else share)
            touched[name] = some
            fresh = self._fresh(rows)
            for key, values in tensors.items():
                values[some] = fresh[key][some]
        url = f"{self._folder}/at-{len(self.links)}"
        for rank in range(ranks):
            write_part(url, rank, [self._piece(n, rank, ranks, touched, share) for n in touched])
        after = None if share is None else self.links[-1]
        self.links.append(complete(url, ranks, after, limit_s=10))
        self.held.append(
            {n: {k: v.clone() for k, v in of.items()} for n, of in self.tables.items()}
        )
        return url

    def _piece(
        self, name: str, rank: int, ranks: int, touched: dict[str, Tensor], share: float | None
    ) -> TablePiece:
        ids = self.buckets[name].ids(rank, ranks)
        tensors = {key: values[ids] for key, values in self.tables[name].items()}
        own = None if share is None else touched[name][ids]
        return TablePiece(name, self.buckets[name], rank, ranks, tensors, own)

    def check(self, number: int, ranks: int) -> None:
        """What any number of ranks reads of a checkpoint is what the tables held then."""
        chain = verified_chain(self.links[number].url, MOST)
        for name, buckets in self.buckets.items():
            for rank in range(ranks):
                ids = buckets.ids(rank, ranks)
                found = read_piece(chain, name, rank, ranks)
                assert found.keys() == self.held[number][name].keys()
                for key, values in found.items():
                    assert torch.equal(values, self.held[number][name][key][ids])


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 60),
    count=st.integers(1, 16),
    by=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    ranks=st.integers(1, 6),
    share=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_any_number_of_ranks_reads_any_checkpoint(
    rows: int, count: int, by: list[int], ranks: int, share: float
) -> None:
    with TemporaryDirectory() as folder:
        training = Training(folder, {"a": rows, "b": 3}, count)
        training.checkpoint(min(by[0], count))
        for own in by[1:]:
            training.checkpoint(min(own, count), share)
        for number in range(len(by)):
            training.check(number, min(ranks, count))


def test_a_store_of_objects_keeps_them_too(tmp_path: Path) -> None:
    training = Training(f"memory://{tmp_path}", {"a": 50}, 8)
    training.checkpoint(3)
    training.checkpoint(2, 0.2)
    training.check(1, 5)


def _damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "torn":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) - 9] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "torn", "flipped"])
@pytest.mark.parametrize("file", ["tables/a/touched-1-of-3.safetensors", "part-2.json", COMPLETE])
def test_a_damaged_checkpoint_is_named_and_the_chain_before_used(
    tmp_path: Path, file: str, how: str
) -> None:
    training = Training(str(tmp_path), {"a": 50, "b": 20}, 8)
    urls = [training.checkpoint(3), training.checkpoint(3, 0.3), training.checkpoint(3, 0.3)]
    _damaged(Path(urls[2]) / file, how)
    chain, passed_over = newest_chain(urls[::-1], MOST)
    assert [link.url for link in chain] == urls[:2]
    assert len(passed_over) == 1
    assert Path(file).name in passed_over[0]
    assert "at-2" in passed_over[0]


@pytest.mark.parametrize("how", ["missing", "torn", "flipped"])
def test_damage_in_a_base_spoils_what_follows_it_alone(tmp_path: Path, how: str) -> None:
    training = Training(str(tmp_path), {"a": 50}, 8)
    urls = [training.checkpoint(2), training.checkpoint(2), training.checkpoint(3, 0.3)]
    _damaged(Path(urls[1]) / "tables/a/buckets-0-of-2.safetensors", how)
    chain, passed_over = newest_chain(urls[::-1], MOST)
    assert [link.url for link in chain] == urls[:1]
    assert "at-1, which it follows: " in passed_over[0]
    assert "buckets-0-of-2" in passed_over[0]
    assert "buckets-0-of-2" in passed_over[1]
    training.check(0, 5)


def test_a_rank_that_did_not_write_is_named_and_nothing_complete(tmp_path: Path) -> None:
    training = Training(str(tmp_path), {"a": 50}, 8)
    whole = training.checkpoint(2)
    url = str(tmp_path / "at-9")
    write_part(url, 0, [training._piece("a", 0, 2, {}, None)])
    with pytest.raises(TimeoutError, match="rank 1 did not write"):
        complete(url, 2, None, limit_s=0.3)
    chain, passed_over = newest_chain([url, whole], MOST)
    assert [link.url for link in chain] == [whole]
    assert f"{COMPLETE} is missing" in passed_over[0]


def test_a_chain_is_bounded(tmp_path: Path) -> None:
    training = Training(str(tmp_path), {"a": 9}, 2)
    training.checkpoint(1)
    for _ in range(3):
        training.checkpoint(2, 0.5)
    assert [link.depth for link in training.links] == [0, 1, 2, 3]
    assert len(verified_chain(training.links[-1].url, 4)) == 4
    with pytest.raises(Damaged, match="more than 2 others"):
        verified_chain(training.links[-1].url, 3)


def test_changed_rows_cost_as_many_as_they_are(tmp_path: Path) -> None:
    training = Training(str(tmp_path), {"a": 20_000}, 64)
    sizes = [
        sum(file.stat().st_size for file in Path(url).rglob("*.safetensors"))
        for url in (training.checkpoint(2), training.checkpoint(2, 0.01))
    ]
    assert sizes[1] < 0.03 * sizes[0]
    assert json.loads(Path(training.links[1].url, COMPLETE).read_text())["sha256"]
