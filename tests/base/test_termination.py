"""SIGTERM ends a run as a failure that observers are told of, with its own exit code."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from jobs.base.termination import Terminated, terminable
from tests.builders.processes import millstream
from tests.builders.visits import Raw, rows_of
from tests.observe.runs import json_lines, run_of, settings_of


def test_a_terminated_run_is_a_failed_one(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    settings = settings_of(tmp_path, json_log="night.jsonl")
    with pytest.raises(Terminated), terminable(), run_of(settings, "nightly"):
        os.kill(os.getpid(), signal.SIGTERM)
    last = json_lines(tmp_path / "night.jsonl")[-1]
    assert (last["event"], last["exit_code"]) == ("fail", 143)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_a_terminated_command_frees_its_lock_and_can_run_again(tmp_path: Path) -> None:
    raw = Raw(tmp_path, settings={"observe": {"json_log": "night.jsonl"}})
    raw.add(rows_of("2024-01-01", 300)).write()
    command = ("etl", "--config", str(raw.config), "--date", "2024-01-01")
    with millstream(*command) as process:
        process.until("raw rows")
        os.kill(process.popen.pid, signal.SIGTERM)
        assert process.code() == 143
    assert "Traceback" not in "".join(process.said)
    assert json_lines(tmp_path / "night.jsonl")[-1]["exit_code"] == 143
    with millstream(*command) as process:
        assert process.code() == 0
