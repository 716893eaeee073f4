"""What options take as their values."""

from __future__ import annotations

import datetime as dt

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.commands import tables
from jobs.commands.options import Date, DateRange


@given(
    st.lists(
        st.lists(st.from_regex(r"\A[a-z]+=[^\0-]*\Z"), min_size=1, max_size=3),
        min_size=1,
        max_size=3,
    )
)
def test_a_key_takes_all_words_up_to_the_next_option(keys: list[list[str]]) -> None:
    words = [word for key in keys for word in ("--key", *key)]
    with tables.erase.make_context("erase", ["--config", "x", *words, "--quiet"]) as context:
        assert [list(key) for key in context.params["key"]] == keys
        assert context.params["quiet"]


def test_a_value_may_begin_with_a_minus() -> None:
    arguments = ["--config", "x", "--older-than", "-1", "--set=a.b=--c", "--set", "-d"]
    with tables.vacuum.make_context("vacuum", arguments) as context:
        assert context.params["hours"] == -1
        assert context.params["changes"] == ("a.b=--c", "-d")


@given(st.dates(), st.integers(0, 400))
def test_a_range_has_each_date_once(first: dt.date, days: int) -> None:
    last = first + min(dt.timedelta(days), dt.date.max - first)
    found = DateRange().convert(f"{first}..{last}", None, None)
    assert found == sorted(set(found))
    assert (found[0], found[-1], len(found)) == (str(first), str(last), (last - first).days + 1)


@pytest.mark.parametrize("text", ["2024-1-1", "2024-02-30", "", "today", "2024-01-01..2024-01-02"])
def test_a_text_that_is_no_date_is_refused_by_name(text: str) -> None:
    with pytest.raises(click.BadParameter, match=f"{text!r} is no date YYYY-MM-DD"):
        Date().convert(text, None, None)
