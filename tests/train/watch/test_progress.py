"""What a training shows: rank 0's notes reach the driver, in order, each line once."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.stores.files import write_json
from jobs.train.watch import progress
from jobs.train.watch.progress import Console, Notes, relayed
from tests.builders.s3 import S3, SILENCE


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "millstream.train")


def test_lines_of_another_process_are_shown_once_and_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_NOTES", 0.0)
    notes = Notes(str(tmp_path))
    with relayed(str(tmp_path), Console(terminal=False)):
        for epoch in range(20):
            notes.rows(f"epoch {epoch}", 50, 100)
            notes.say(f"epoch {epoch} is done")
        # As a rank does at its end; what was not written by then would be shown by nobody.
        notes.close()
    lines = [r.getMessage() for r in caplog.records if r.getMessage().endswith("is done")]
    assert lines == [f"epoch {epoch} is done" for epoch in range(20)]


def test_nothing_noted_shows_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with relayed(str(tmp_path), Console(terminal=False)):
        pass
    assert caplog.records == []


def test_a_store_that_fails_or_is_silent_at_the_end_fails_no_training(
    s3: S3, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LAST_LOOK_S", 0.5)
    write_json(s3.url("unread", "progress.json"), {"lines": ["trained"]})
    for status in (403, SILENCE):
        caplog.clear()
        with (
            s3.failing("unread/progress", status),
            relayed(s3.url("unread"), Console(terminal=False)),
        ):
            pass
        assert "the last lines of training could not be read" in caplog.text


def test_what_a_store_answers_after_the_end_is_not_shown(
    s3: S3, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LAST_LOOK_S", 0.5)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_NOTES", 0.0)
    write_json(s3.url("late", "progress.json"), {"lines": ["trained"]})
    before = set(threading.enumerate())
    with s3.failing("late/progress", SILENCE):
        with relayed(s3.url("late"), Console(terminal=False)):
            pass
        new = set(threading.enumerate()) - before
        waiting = [thread for thread in new if thread.name.startswith("millstream")]
    assert waiting
    for thread in waiting:
        thread.join(60)
        assert not thread.is_alive()
    assert "trained" not in [record.getMessage() for record in caplog.records]


def test_plain_lines_tell_rows_speed_and_time_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = iter([100.0, *[120.0] * 3])
    # The module's alone: loops of other threads ask Python's own clock.
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(moment)))
    Console(terminal=False).rows("epoch 1 of 2", 5_000, 20_000)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "epoch 1 of 2: 5,000 of 20,000 rows, 250 rows/s, 60 s left"


def test_a_terminal_gets_a_bar_that_goes_away(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(terminal=True)
    console.rows("epoch 1 of 2", 5_000, 20_000)
    shown = capsys.readouterr().err
    assert "epoch 1 of 2" in shown
    assert "20.0k" in shown
    console.say("done")
    assert capsys.readouterr().err.startswith("\r")


def test_quiet_shows_nothing(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.WARNING, "millstream.train")
    console = Console(terminal=True)
    console.rows("epoch 1 of 2", 5_000, 20_000)
    console.say("done")
    assert capsys.readouterr().err == ""
    assert caplog.records == []
