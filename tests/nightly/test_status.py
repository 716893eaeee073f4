"""The table of the last nights: what is on record, in a terminal of any width, and piped."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.lake.lake import Lake
from jobs.main import main
from jobs.nightly.names import STEPS
from jobs.nightly.record import Record, StepRecord, save
from jobs.nightly.status import rendered
from tests.builders.nights import DATES
from tests.builders.visits import Raw

DONE = StepRecord("done", seconds=1.5)


def night(ds: str, **steps: StepRecord) -> Record:
    etl = replace(DONE, values={"counts": {"raw": 12_345, "quarantined": 67}})
    measured = {"auc": 0.71234, "log_loss": float("nan")}
    evaluate = replace(DONE, values={"metrics": measured, "measured_on": "test, 99 rows"})
    score = replace(DONE, values={"versions": {"model": "4"}})
    known = {**dict.fromkeys(STEPS, DONE), "etl": etl, "evaluate": evaluate, "score": score}
    return Record(ds, run=f"nightly-{ds}", steps={**known, **steps})


REFUSED = night(DATES[1], gate=StepRecord("refused", exit_code=4, message="no better"))
STOPPED = night(DATES[2], score=StepRecord("started"), report=StepRecord())


def test_a_line_a_night() -> None:
    head, *lines = rendered([night(DATES[0]), REFUSED], frozenset(), None).splitlines()
    heads = ["date", *STEPS, "rows", "refused", "auc", "measured on", "champion", "seconds", "exit"]
    assert re.split(r"\s{2,}", head) == heads
    counted = ["12,345", "67", "0.7123", "test, 99 rows"]
    assert re.split(r"\s{2,}", lines[0]) == [DATES[0], *["done"] * 6, *counted, "4", "9", "0"]
    assert lines[1].split()[4] == "refused"
    assert lines[1].split()[-1] == "4"


def test_a_night_that_is_done_again_has_a_line_for_each() -> None:
    before = night(DATES[0])
    again = before.reopened("gate").with_step("gate", StepRecord("failed", exit_code=1))
    lines = rendered([again], frozenset(), None).splitlines()[1:]
    assert lines[0].split() == rendered([before], frozenset(), None).splitlines()[1].split()
    assert lines[1].split()[:8] == [DATES[0], "again", *["done"] * 3, "failed", "-", "-"]


def test_a_step_that_has_begun_is_running_or_killed() -> None:
    for live, word in ((frozenset({STOPPED.run}), "running"), (frozenset[str](), "killed")):
        line = rendered([STOPPED], live, None).splitlines()[1]
        assert line.split()[5:7] == [word, "-"]


@pytest.mark.parametrize("width", [24, 40, 80, 99, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_lost(width: int) -> None:
    nights = [night(DATES[0]), REFUSED, STOPPED]
    wide, shown = rendered(nights, frozenset(), None), rendered(nights, frozenset(), width)
    assert max(map(len, shown.splitlines())) <= width
    for cell in wide.split()[1:]:
        assert cell in shown


def test_status_of_a_lake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = Raw(tmp_path).write()
    command = ["status", "--config", str(raw.config)]
    assert main(command) == 0
    assert "no night is on record" in capsys.readouterr().out

    lake = Lake(str(raw.lake), "visits")
    for record in (night(DATES[0]), REFUSED, STOPPED):
        save(lake, record)
    assert main([*command, "--nights", "2"]) == 0
    assert [line[:10].strip() for line in capsys.readouterr().out.splitlines()] == [
        "date",
        *DATES[1:3],
    ]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))[
        "nights"
    ]
    assert [one["exit_code"] for one in found] == [0, 4, 0]
    assert found[0]["steps"]["evaluate"]["values"]["metrics"] == {"auc": 0.71234, "log_loss": None}
    assert main([*command, "--nights", "0"]) == 2
