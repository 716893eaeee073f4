"""Checkpoints of sharded tables: any ranks read them, and damage is named and passed over."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jobs.models.tables.buckets import Buckets
from jobs.train.keep import checkpoint
from jobs.train.keep.chain import chain_of, prune, read_pieces, verified_chain
from jobs.train.keep.checkpoint import Checkpoint, listed, of_moment, staged_at
from jobs.train.keep.resume import newest_of_run
from jobs.train.keep.seal import COMMIT, Damaged, TablesSeal
from jobs.train.keep.snapshot import Snapshot
from jobs.train.keep.table_parts import TablePiece, await_parts, write_part
from jobs.train.step.history import Position

IDENTITY = {"examples_version": 1, "state_digest": "s"}


class Training:
    """Tables that change from checkpoint to checkpoint, and what they held at each."""

    def __init__(self, folder: str, sizes: dict[str, int], count: int, seed: int = 1) -> None:
        self._folder, self._draw = folder, torch.Generator().manual_seed(seed)
        self.buckets = {name: Buckets(rows, count) for name, rows in sizes.items()}
        self.tables = {name: self._fresh(rows) for name, rows in sizes.items()}
        self.held: list[dict[str, dict[str, Tensor]]] = []
        self.written: list[Checkpoint] = []

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
        before = None if share is None else self.written[-1]
        seal = self._sealed(ranks, touched if before else None, before)

        def write_tables(place: str) -> TablesSeal:
            assert place == staged_at(self._folder, seal.moment_ns)
            return seal

        number = len(self.written)
        snapshot = Snapshot({}, {}, {}, torch.zeros(1, 8).byte(), Position(row=number))
        url = checkpoint.write(self._folder, snapshot, IDENTITY, seal.moment_ns, write_tables)
        self.written.append(checkpoint.verified(url))
        self.held.append(
            {n: {k: v.clone() for k, v in of.items()} for n, of in self.tables.items()}
        )
        return url

    def _sealed(
        self, ranks: int, touched: dict[str, Tensor] | None, before: Checkpoint | None
    ) -> TablesSeal:
        """Has all ranks write their parts."""
        moment_ns = len(self.written) + 1
        place = staged_at(self._folder, moment_ns)
        for rank in range(ranks):
            pieces = [self.piece(name, rank, ranks, touched) for name in self.tables]
            write_part(place, moment_ns, rank, pieces)
        texts = await_parts(place, moment_ns, ranks, 10, threading.Event())
        after = before.url.rsplit("/", 1)[-1] if before else None
        depth = before.tables.depth + 1 if before and before.tables else 0
        digests = tuple(hashlib.sha256(text).hexdigest() for text in texts)
        return TablesSeal(after, depth, moment_ns, digests)

    def piece(
        self, name: str, rank: int, ranks: int, touched: dict[str, Tensor] | None
    ) -> TablePiece:
        ids = self.buckets[name].ids(rank, ranks)
        places = None if touched is None else touched[name][ids].nonzero().squeeze(1)
        some = ids if places is None else ids[places]
        tensors = {key: values[some] for key, values in self.tables[name].items()}
        return TablePiece(name, self.buckets[name], rank, ranks, tensors, places)

    def check(self, number: int, ranks: int) -> None:
        """What any number of ranks reads of a checkpoint is what the tables held then."""
        chain = chain_of(verified_chain(self.written[number].url))
        for rank in range(ranks):
            rows = {
                name: torch.empty(of.piece_rows(rank, ranks), *self.tables[name]["rows"].shape[1:])
                for name, of in self.buckets.items()
            }
            pieces = read_pieces(chain, rank, ranks, rows)
            assert pieces.keys() == self.tables.keys()
            for name, found in pieces.items():
                ids = self.buckets[name].ids(rank, ranks)
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
        content[len(content) * 2 // 3] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "torn", "flipped"])
@pytest.mark.parametrize("file", ["tables/a/touched-1-of-3.safetensors", "part-3-2.json", COMMIT])
def test_a_damaged_checkpoint_is_named_and_the_chain_before_used(
    tmp_path: Path, file: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(str(tmp_path), {"a": 50, "b": 20}, 8)
    urls = [training.checkpoint(3), training.checkpoint(3, 0.3), training.checkpoint(3, 0.3)]
    _damaged(Path(urls[2]) / file, how)
    found = newest_of_run(str(tmp_path))
    assert found is not None
    assert [link.url for link in chain_of(found)] == urls[:2]
    (said,) = caplog.messages
    assert Path(file).name in said
    assert "at-3 is not used" in said


@pytest.mark.parametrize("how", ["missing", "torn", "flipped"])
def test_damage_in_a_base_spoils_what_follows_it_alone(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(str(tmp_path), {"a": 50}, 8)
    urls = [training.checkpoint(2), training.checkpoint(2), training.checkpoint(3, 0.3)]
    _damaged(Path(urls[1]) / "tables/a/buckets-0-of-2.safetensors", how)
    found = newest_of_run(str(tmp_path))
    assert found is not None
    assert found.url == urls[0]
    first, second = caplog.messages
    assert "at-3 is not used: at-2, which it follows: " in first
    assert "buckets-0-of-2" in first
    assert "buckets-0-of-2" in second
    training.check(0, 5)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_rank_that_did_not_write_is_named(tmp_path: Path, is_stopped: bool) -> None:
    training = Training(str(tmp_path), {"a": 50}, 8)
    url, stopped = str(tmp_path / "at-9"), threading.Event()
    write_part(url, 9, 0, [training.piece("a", 0, 2, None)])
    # What a former attempt wrote does not count.
    write_part(url, 8, 1, [training.piece("a", 1, 2, None)])
    if is_stopped:
        stopped.set()
    said = "ranks were lost before rank 1 wrote" if is_stopped else "rank 1 did not write"
    with pytest.raises(TimeoutError, match=said):
        await_parts(url, 9, 2, 0.3, stopped)


def test_a_chain_ends_where_it_says(tmp_path: Path) -> None:
    training = Training(str(tmp_path), {"a": 9}, 2)
    urls = [training.checkpoint(1), training.checkpoint(2, 0.5), training.checkpoint(2, 0.5)]
    assert [of.tables.depth for of in training.written if of.tables] == [0, 1, 2]
    Path(urls[1]).rename(urls[1] + "0")
    Path(urls[0]).rename(urls[1])
    with pytest.raises(Damaged, match="follows 0 others, not 1"):
        verified_chain(urls[2])


def test_checkpoints_stay_that_a_kept_one_follows(tmp_path: Path) -> None:
    training = Training(str(tmp_path), {"a": 50}, 8)
    training.checkpoint(2)
    base = training.checkpoint(2)
    urls = [training.checkpoint(2, 0.3) for _ in range(3)]
    prune(str(tmp_path), 1, [of.url for of in training.written])
    assert listed(str(tmp_path)) == [*urls[::-1], base]
    training.check(4, 3)
    whole = training.checkpoint(2)
    prune(str(tmp_path), 1, [of.url for of in training.written])
    assert listed(str(tmp_path)) == [whole]
    assert whole == of_moment(str(tmp_path), 6)


def test_changed_rows_cost_as_many_as_they_are(tmp_path: Path) -> None:
    training = Training(str(tmp_path), {"a": 20_000}, 64)
    sizes = [
        sum(file.stat().st_size for file in Path(url, "tables").rglob("*.safetensors"))
        for url in (training.checkpoint(2), training.checkpoint(2, 0.01))
    ]
    assert sizes[1] < 0.03 * sizes[0]
