"""Signals while Spark works: one line of ours, the signal's exit code, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from jobs.base.spark import DAEMON
from tests.builders.processes import ROOT
from tests.builders.visits import Raw, rows_of

DS = "2024-01-01"
_SETTLED_S = 60.0


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize(
    ("name", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupt_ends_a_command_with_one_line(
    tmp_path: Path, name: signal.Signals, code: int, group: bool
) -> None:
    raw = Raw(tmp_path).add(rows_of(DS, 200_000)).write()
    command = [sys.executable, "-m", "jobs.main", "etl", "--config", str(raw.config), "--date", DS]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell's background jobs, as tests may be, ignore them.
        preexec_fn=_heard,
    )
    family = _working(process)
    (os.killpg if group else os.kill)(process.pid, name)
    said, _ = process.communicate(timeout=_SETTLED_S)
    assert process.returncode == code, said
    lines = [line for line in said.splitlines() if "millstream.etl" not in line]
    assert lines == ["millstream: interrupted; nothing half-written is visible"], said
    _, left = psutil.wait_procs(family, timeout=_SETTLED_S)
    assert not left


def _heard() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _working(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All its processes, once Spark's Python workers are among them."""
    while process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        if sum(DAEMON in " ".join(_command(one)) for one in family) > 1:
            return family
    raise AssertionError(process.communicate()[0])


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
