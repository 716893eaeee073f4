"""A run is observed from start to end, and no observer can fail it or hold it up."""

from __future__ import annotations

import logging
import math
import threading
from pathlib import Path

import pytest

from jobs.base.errors import DataRefused, GateRefused, Locked
from jobs.observe.event import Event
from jobs.observe.run import Observers, Run
from tests.observe.runs import json_lines, run_of, settings_of

log = logging.getLogger("millstream.etl")


def test_every_line_of_the_json_log_says_run_stage_and_date(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, json_log="logs/night.jsonl")
    log.setLevel(logging.INFO)
    with run_of(settings, "nightly", dates=["2024-01-02"]) as night:
        with run_of(settings, "etl") as run:
            log.info("%s raw rows", "1,200")
            run.done(counts={"raw": 1200, "train": 1200}, versions={"examples": "3"})
        night.promoted("2", instead_of="1")
    log.warning("after the end")
    lines = json_lines(tmp_path / "logs" / "night.jsonl")
    assert [(line["run"], line["stage"], line["ds"]) for line in lines] == [
        ("nightly-1", "nightly", "2024-01-02"),
        *[("etl-1", "etl", "2024-01-01..2024-01-02")] * 3,
        *[("nightly-1", "nightly", "2024-01-02")] * 2,
    ]
    assert [line["message"] for line in lines] == [
        *("nightly started", "etl started", "1,200 raw rows", "etl done"),
        *("nightly promoted a model", "nightly done"),
    ]
    assert (lines[3]["counts"], lines[3]["versions"]) == (
        {"raw": 1200, "train": 1200},
        {"examples": "3"},
    )
    assert lines[3]["parent"] == "nightly-1"
    assert lines[4]["versions"] == {"champion": "2", "before": "1"}


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (DataRefused("no rows"), 3),
        (GateRefused("worse"), 4),
        (Locked("held"), 5),
        (ZeroDivisionError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_failure_is_told_and_goes_on_unchanged(
    error: BaseException, exit_code: int, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path, json_log="night.jsonl")
    with pytest.raises(type(error)) as raised, run_of(settings, "etl"):
        raise error
    assert raised.value is error
    last = json_lines(tmp_path / "night.jsonl")[-1]
    assert (last["event"], last["level"], last["exit_code"]) == ("fail", "ERROR", exit_code)
    assert type(error).__name__ in last["message"] or str(error) in last["message"]


def test_secrets_are_not_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdefgh/12345")
    settings = settings_of(tmp_path, json_log="night.jsonl")
    with pytest.raises(OSError), run_of(settings, "etl"):
        log.warning("with key abcdefgh/12345 at https://anna:pass@host/x")
        log.warning("at redis://:p4ss@cache/0, redis://u:p4/ss@cache/1 and redis://u:p4@ss@cache/2")
        raise OSError("postgresql://anna:pa:ss@db/x refused abcdefgh/12345")
    text = (tmp_path / "night.jsonl").read_text()
    assert "with key [AWS_SECRET_ACCESS_KEY] at https://[user]@host/x" in text
    assert "postgresql://[user]@db/x" in text
    assert not any(secret in text for secret in ("abcdefgh", "pass", "pa:ss", "anna", "p4", "ss@"))
    assert "at redis://[user]@cache/0, redis://[user]@cache/1 and redis://[user]@cache/2" in text


def test_metrics_that_are_no_numbers_are_null_in_the_log(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, json_log="night.jsonl")
    with run_of(settings, "evaluate") as run:
        run.done(metrics={"auc": math.nan, "log_loss": 0.5})
    text = (tmp_path / "night.jsonl").read_text()
    assert "NaN" not in text
    assert json_lines(tmp_path / "night.jsonl")[-1]["metrics"] == {"auc": None, "log_loss": 0.5}


class Kept:
    """Keeps what it is told."""

    name = "kept"

    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, event: Event) -> None:
        self.events.append(event)


class Broken(Kept):
    """Fails each time, for ever where it has an end to wait for."""

    name = "broken"

    def __init__(self, end: threading.Event | None = None) -> None:
        super().__init__()
        self._end = end

    def tell(self, event: Event) -> None:
        super().tell(event)
        if self._end is not None:
            self._end.wait()
        raise OSError("nobody there")


@pytest.mark.parametrize("hangs", [False, True])
def test_a_broken_observer_is_named_once_and_asked_again(
    hangs: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    end = threading.Event()
    broken, kept = Broken(end if hangs else None), Kept()
    observers = Observers(settings_of(tmp_path, timeout_s=0.05).observe, [broken, kept])
    with run_of(settings_of(tmp_path), "etl") as outer:
        run = Run(observers, outer.subject)
        run.start()
        run.end()
    end.set()
    assert [event.kind for event in kept.events] == ["start", "done"]
    assert len(broken.events) == 2
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "millstream.observe"]
    assert warning.startswith("observer broken failed, the run goes on without it: ")
    assert ("no end within 0.05 s" if hangs else "nobody there") in warning


def test_a_log_that_cannot_be_written_fails_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with run_of(settings_of(tmp_path, json_log="file/night.jsonl"), "etl"):
        log.warning("still here")
    assert capsys.readouterr().err.count("the JSON log is not written") == 1
