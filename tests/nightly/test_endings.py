"""How nights end: what was cut short is ended by whom, and what others are told of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.base.errors import DataRefused, NoRawFile
from jobs.lake.ledger import read_ledger
from jobs.nightly.names import STEPS
from jobs.nightly.work import Work
from tests.builders.lakes import lake_of
from tests.builders.nights import DATES, Nights, gate_refused
from tests.observe.servers import Server, serving

# The first of these dates is a Monday.
FIRST, SECOND, THIRD, FOURTH = DATES[:4]


@pytest.fixture
def nights(tmp_path: Path, scripted: Callable[[Nights], Nights]) -> Iterator[Nights]:
    yield scripted(Nights(tmp_path, DATES))


def _ledger(nights: Nights) -> list[tuple[str, str]]:
    rows = read_ledger(lake_of(nights.raw), stage="nightly")
    return [(row["ds"], row["status"]) for row in rows]


def test_a_search_that_was_cut_is_left_to_the_next_night(nights: Nights) -> None:
    nights.configure(nightly={"tune_on": ["monday"]})
    nights.refuses["gate", FIRST] = gate_refused()
    nights.fails["tune", FIRST] = RuntimeError("no disk")
    assert nights.run("--date", FIRST) == 1

    # It ends the night, whose refusal was not told yet.
    assert nights.run("--date", SECOND) == 4
    assert nights.record(FIRST).is_closed
    assert nights.record(FIRST).steps["tune"].message == f"left to {SECOND}"
    assert nights.run("--date", THIRD) == 0
    assert nights.record(THIRD).caught_up == ()


def test_a_search_that_is_wanted_no_more_ends_with_its_night(nights: Nights) -> None:
    nights.configure(nightly={"tune_on": ["monday"]})
    nights.fails["tune", FIRST] = RuntimeError("no disk")
    assert nights.run("--date", FIRST) == 1
    nights.configure(nightly={"tune_on": []})

    assert nights.run("--date", FIRST) == 0
    assert nights.steps_done() == ["report"]
    assert nights.states(FIRST)["tune"] == "skipped"
    assert nights.run("--date", FIRST) == 0
    assert _ledger(nights) == [(FIRST, "done"), (FIRST, "unchanged")]


def test_force_searches_again_and_a_changed_setting_does_not(nights: Nights) -> None:
    nights.configure(nightly={"tune_on": ["monday"]})
    searched = [*STEPS[:-1], "tune", "report"]
    assert nights.run("--date", FIRST) == 0
    assert nights.run("--date", FIRST, "--force") == 0
    assert nights.steps_done() == searched
    assert nights.run("--date", FIRST, "--from", "report") == 0
    assert nights.steps_done() == ["report"]
    nights.configure(nightly={"tune_on": ["monday"]}, score={"batch_rows": 99})
    assert nights.run("--date", FIRST) == 0
    assert nights.steps_done() == ["score", "report"]


@pytest.mark.parametrize("only", [[], ["--only", "report"]])
def test_a_night_that_was_killed_before_it_was_closed_is_closed(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, only: list[str]
) -> None:
    def killed(work: Work, dates: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Work, "close", killed)
        assert nights.run("--date", FIRST) == 1
    assert _ledger(nights) == []

    assert nights.run("--date", FIRST, *only) == 0
    assert nights.done == []
    assert nights.record(FIRST).ended_at
    assert _ledger(nights) == [(FIRST, "done")]


def _told(server: Server) -> list[tuple[str, str, int]]:
    bodies: list[dict[str, Any]] = [json.loads(request.body) for request in server.requests]
    return [(body["stage"], body["ds"], body["exit_code"]) for body in bodies]


def test_one_refused_date_of_a_range_is_told_once(nights: Nights) -> None:
    with serving(Server()) as server:
        nights.configure(observe={"webhook_url": server.url})
        nights.refuses["etl", THIRD] = DataRefused("half a file")
        assert nights.run("--dates", f"{FIRST}..{FOURTH}") == 3
    assert _told(server) == [("etl", THIRD, 3)]


def test_a_date_that_is_skipped_is_no_failure(nights: Nights, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with serving(Server()) as server:
        observe = {"webhook_url": server.url, "json_log": str(log)}
        nights.configure(nightly={"missing_raw": "skip"}, observe=observe)
        assert nights.run("--date", FIRST) == 0
        for step in ("etl", "score"):
            nights.refuses[step, SECOND] = NoRawFile("no raw file matches")
        assert nights.run("--date", SECOND) == 0
    assert server.requests == []
    events = [json.loads(line).get("event") for line in log.read_text().splitlines()]
    assert "fail" not in events
    assert nights.states(SECOND)["etl"] == nights.states(SECOND)["score"] == "skipped"
