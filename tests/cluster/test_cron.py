"""The wrapper that cron calls: what is tried again, what is mailed, and that there is one only."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NIGHT = ROOT / "deploy" / "cron" / "millstream-night"
# Ends with the codes that it is given, one a call, and keeps how it was called.
FAKE = """#!/bin/sh
echo "$@" >> "$CALLS"
set -- $CODES
n=$(wc -l < "$CALLS")
shift $((n - 1))
echo "the last line of call $n"
exit "$1"
"""


def run_night(
    folder: Path, codes: str, *arguments: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    fake, calls = folder / "millstream", folder / "calls"
    fake.write_text(FAKE, encoding="utf-8")
    fake.chmod(0o755)
    night = subprocess.run(
        [str(NIGHT), "conf/flights.yaml", *arguments],
        env={
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "NIGHT_LOGS": str(folder / "logs"),
            "NIGHT_DELAY_S": "0",
            "CODES": codes,
            "CALLS": str(calls),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return night, calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []


@pytest.mark.parametrize(
    ("codes", "calls", "ends"),
    [
        ("0", 1, 0),
        ("1 0", 2, 0),
        ("5 5 0", 3, 0),
        ("137 1 5 0", 3, 5),
        ("2 0", 1, 2),
        ("3 0", 1, 3),
        ("4 0", 1, 4),
        ("1 3 0", 2, 3),
    ],
)
def test_what_can_help_is_tried_again_and_the_code_is_the_last(
    tmp_path: Path, codes: str, calls: int, ends: int
) -> None:
    night, called = run_night(tmp_path, codes, "2024-01-31")
    assert night.returncode == ends
    assert called == ["nightly --config conf/flights.yaml --date 2024-01-31"] * calls
    if ends == 0:
        assert night.stdout + night.stderr == "", "cron mails what is printed"
    else:
        assert f"exit code {ends} after {calls} of 3 tries" in night.stderr
        assert f"the last line of call {calls}" in night.stderr


def test_the_night_is_yesterdays(tmp_path: Path) -> None:
    days = [dt.datetime.now(dt.UTC).date() - dt.timedelta(1)]
    _, (call,) = run_night(tmp_path, "0")
    days.append(dt.datetime.now(dt.UTC).date() - dt.timedelta(1))
    assert call.split()[-1] in map(str, days)


def test_one_night_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with (tmp_path / "logs" / "flights.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        night, called = run_night(tmp_path, "0")
    assert night.returncode == 5 and called == []
    assert "still at work" in night.stderr


def test_logs_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "logs" / "flights.lock").mkdir(parents=True)
    night, calls = run_night(tmp_path, "0")
    assert (night.returncode, calls) == (2, [])
    assert f"cannot write in {tmp_path}/logs (NIGHT_LOGS)" in night.stderr
    assert "at work" not in night.stderr


def test_the_real_command_is_called_as_it_wants(tmp_path: Path) -> None:
    """Settings that are not there: exit code 2, from the real command."""
    night = subprocess.run(
        [str(NIGHT), "absent.yaml", "2024-01-31"],
        env={
            **os.environ,
            "MILLSTREAM": str(Path(sys.executable).with_name("millstream")),
            "NIGHT_LOGS": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert night.returncode == 2
    assert "no settings file absent.yaml" in night.stderr
