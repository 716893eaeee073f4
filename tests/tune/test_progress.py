"""`millstream status` shows the studies of a lake, those at work and those that ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.lake.lake import Lake
from jobs.lake.lock import stage_lock
from jobs.main import main
from jobs.tune.progress import StudyProgress, save
from tests.builders.visits import Raw

ENDED = StudyProgress(
    study="spring",
    run="tune-1",
    trials=24,
    told=24,
    failed=1,
    stopped=16,
    rows=7_200,
    metric="val_auc",
    best=0.71234,
    best_trial=3,
    ended=True,
    version="5",
    changed_at="2024-03-01T02:00:00+00:00",
)
CUT = StudyProgress(
    "autumn", "tune-2", trials=24, told=2, rows=600, changed_at="2024-09-01T02:00:00+00:00"
)
RUNNING = StudyProgress(
    "winter", "tune-3", trials=9, told=4, left_s=600.0, changed_at="2024-12-01T02:00:00+00:00"
)
EARLIER = StudyProgress("first", "tune-0", trials=4, told=4, ended=True)


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    raw = Raw(tmp_path).write()
    lake = Lake(str(raw.lake), "visits")
    for one in (ENDED, CUT, RUNNING, EARLIER):
        save(lake.folder("studies", one.study), one)
    return raw


def test_status_has_a_line_a_study(raw: Raw, capsys: pytest.CaptureFixture[str]) -> None:
    with stage_lock(Lake(str(raw.lake), "visits"), "tune", RUNNING.run):
        assert main(["status", "--config", str(raw.config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "no night is on record" in lines[0]
    assert lines[1:] == [
        "study first ended: 4 of 4 trials, 0 rows",
        "study spring ended: 24 of 24 trials, 16 stopped early, 1 failed, best val_auc 0.7123 by "
        "trial 3, 7,200 rows, model version 5",
        "study autumn cut short: 2 of 24 trials, 600 rows",
        "study winter running: 4 of 9 trials, 0 rows, about 10 min left",
    ]


def test_status_as_json_has_the_studies(raw: Raw, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["status", "--config", str(raw.config), "--json"]
    with stage_lock(Lake(str(raw.lake), "visits"), "tune", RUNNING.run):
        assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nights"] == []
    assert [(one["study"], one["status"]) for one in found["studies"]] == [
        *(("first", "ended"), ("spring", "ended")),
        *(("autumn", "cut short"), ("winter", "running")),
    ]
    spring = found["studies"][1]
    assert (spring["told"], spring["trials"], spring["failed"], spring["stopped"]) == (
        24,
        24,
        1,
        16,
    )
    assert (spring["metric"], spring["best"], spring["best_trial"]) == ("val_auc", 0.71234, 3)
    assert spring["version"] == "5"
    assert found["studies"][3]["left_s"] == 600.0


def test_of_the_studies_that_ended_the_last_are_shown(
    raw: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--config", str(raw.config), "--nights", "1"]) == 0
    said = capsys.readouterr().out
    assert "study spring ended" in said
    assert "study first" not in said
    # What has not ended is never left out.
    assert "study autumn cut short" in said
    assert "study winter cut short" in said
