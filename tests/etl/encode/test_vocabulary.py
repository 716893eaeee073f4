"""Vocabularies as files that workers map: every entry is found by its text, and by it alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.base.xxhash import xxhash64
from jobs.etl.encode import encoder, vocabulary
from jobs.etl.encode.vocabulary import opened_vocabulary, stage_vocabularies
from tests.builders.fitting import entries_of
from tests.builders.judged import encoded, judged
from tests.builders.s3 import S3
from tests.builders.visits import VISITS, Raw, rows_of

DAYS = ("2024-01-01", "2024-01-02", "2024-01-05")
WORDS = ["", "a", "b", "é", "日本", "x" * 3000, "a\0", " a"]
ENTRIES = entries_of([("w", word, 3 + n, DAYS[n % 3]) for n, word in enumerate(WORDS)])


def few_hashes(texts: pa.Array) -> np.ndarray:
    """As if hashes collided: with three values in all, the least and the greatest among them."""
    ends = np.array([-(2**63), 0, 2**63 - 1], np.int64)
    return ends[xxhash64(texts) % 3]


@pytest.fixture(params=["hashes", "collisions"])
def hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "collisions":
        monkeypatch.setattr(vocabulary, "xxhash64", few_hashes)
        monkeypatch.setattr(encoder, "xxhash64", few_hashes)


@pytest.mark.usefixtures("hashes")
def test_each_text_has_its_own_entry_and_others_have_none(tmp_path: Path) -> None:
    (url,) = stage_vocabularies(ENTRIES, ["w"], str(tmp_path)).values()
    found = opened_vocabulary(url)
    texts = pa.array(["no", *WORDS, "aa", "A"], pa.string())
    entries = found.find(texts, vocabulary.xxhash64(texts))
    assert entries.ids.tolist() == [-1, *range(3, 3 + len(WORDS)), -1, -1]
    assert found.days == DAYS
    for ds, count in (("2023-12-31", 0), (DAYS[0], 1), ("2024-01-04", 2), ("2025-01-01", 3)):
        assert found.until(ds) == count
        known = entries.known(count).tolist()
        assert known == [False, *(n % 3 < count for n in range(len(WORDS))), False, False]


@pytest.mark.parametrize("most_range_bits", [22, 0])
@pytest.mark.parametrize("hashing", [few_hashes, xxhash64])
def test_any_texts_among_any_entries(
    hashing: Callable[[pa.Array], np.ndarray], most_range_bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether entries are found by ranges of hashes, or by halving as in huge vocabularies."""
    monkeypatch.setattr(vocabulary, "_MOST_RANGE_BITS", most_range_bits)

    @given(st.lists(st.text(max_size=3), unique=True), st.lists(st.text(max_size=3)))
    def check(held: list[str], asked: list[str]) -> None:
        texts, wanted = pa.array(held, pa.large_string()), pa.array(asked, pa.string())
        hashes = hashing(texts.cast(pa.string()))
        order = np.argsort(hashes, kind="stable")
        ids = order.astype(np.int32)
        found = vocabulary.MappedVocabulary(
            hashes[order], texts.take(order), ids, ids * 0, DAYS[:1]
        ).find(wanted, hashing(wanted))
        places = {text: place for place, text in enumerate(held)}
        assert found.ids.tolist() == [places.get(text, -1) for text in asked]

    check()


def test_a_field_without_entries_has_no_file(tmp_path: Path) -> None:
    assert set(stage_vocabularies(ENTRIES, ["w", "other"], str(tmp_path))) == {"w"}
    assert stage_vocabularies(ENTRIES.slice(0, 0), ["w"], str(tmp_path)) == {}


def test_values_with_one_hash_make_no_row_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A join by the hash alone would give each row once for each such entry."""
    raw = Raw(tmp_path).add(rows_of(DAYS[0], 40)).write()
    paths = {"visits": str(tmp_path / "visits.csv"), "shops": str(tmp_path / "shops.csv")}
    valid = judged(VISITS, paths, DAYS[:1]).valid
    entries = entries_of([("shop_id", shop, 5 + n, DAYS[0]) for n, shop in enumerate("abcd")])
    wanted = encoded(VISITS, valid, entries, tmp_path / "apart")
    for module in (vocabulary, encoder):
        monkeypatch.setattr(module, "xxhash64", lambda texts: np.zeros(len(texts), np.int64))
    found = encoded(VISITS, valid, entries, tmp_path / "one_hash")
    assert found.num_rows == len(raw.lines)
    assert found["shop_id"].equals(wanted["shop_id"])
    assert set(found["shop_id"].to_pylist()) == {5, 6, 7, 8}


def test_of_another_store_a_host_maps_a_copy(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{tmp_path},elsewhere")
    url = s3.url(tmp_path.name, "judged")
    (staged,) = stage_vocabularies(ENTRIES, ["w"], url).values()
    assert staged.startswith("s3://")
    texts = pa.array(WORDS, pa.string())
    for _ in range(2):
        # Once from the store, then from the copy, in another worker of the host.
        opened_vocabulary.cache_clear()
        found = opened_vocabulary(staged).find(texts, xxhash64(texts))
        assert found.ids.tolist() == list(range(3, 3 + len(WORDS)))
    (copy,) = tmp_path.iterdir()
    assert copy.name.startswith("millstream-")
