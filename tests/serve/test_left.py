"""What a killed replica had counted reaches the ledger, once, and adds up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from jobs.lake.lake import Lake
from jobs.lake.ledger import read_ledger
from jobs.serve.left import account, begin, note_death, take_back
from tests.builders.processes import ROOT

# Counts two requests, the second of which its death interrupts.
REPLICA = """
import os, signal, sys
from pathlib import Path
from jobs.lake.lake import Lake
from jobs.serve.accounts import Accounts
from jobs.serve.left import begin

folder, lake, writes = sys.argv[1:]
begin(Path(folder), "serve-killed", 2)
accounts = Accounts(Lake(lake, "visits"), "serve-killed", 2, shared=True)
with accounts.request("7"):
    accounts.rows("7", 3, 1)
if writes == "yes":
    assert accounts.write()
with accounts.request("7"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder: Path, lake: Path, writes: str) -> int:
    """The id of a process that has died."""
    command = [sys.executable, "-c", REPLICA, str(folder), str(lake), writes]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
    }
    with subprocess.Popen(command, env=environment) as process:
        assert process.wait(timeout=120) == -signal.SIGKILL
        return process.pid


@pytest.mark.parametrize("writes", ["yes", "no"])
def test_what_a_killed_replica_left_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: str
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    lake = Lake(str(tmp_path / "lake"), "visits")
    pid = killed(folder, tmp_path / "lake", writes)
    # It is alive as far as anybody knows.
    account(lake, folder)
    assert len(read_ledger(lake)) == (writes == "yes")
    note_death(folder, pid)
    with monkeypatch.context() as away:
        away.setattr("jobs.serve.left.record", lambda *_: 1 // 0)
        account(lake, folder)
    # Another took it, and died as well.
    (folder / f"dead_{pid}").rename(folder / f"taken_{pid}")
    account(lake, folder)
    assert len(read_ledger(lake)) == (writes == "yes")
    take_back(folder)
    account(lake, folder)
    account(lake, folder)
    rows = read_ledger(lake, run="serve-killed")
    assert len(rows) == 1 + (writes == "yes")
    assert {(row["versions"]["model"], row["versions"]["replica"]) for row in rows} == {("7", "2")}
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row["counts"])
    assert total == {
        "received": 2,
        "answered": 1,
        "failed": 1,
        "rows_scored": 3,
        "rows_refused": 1,
    }
    assert rows[-1]["message"].endswith("1 requests were under way")


def test_what_cannot_be_read_stops_no_other_account(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    lake = Lake(str(tmp_path / "lake"), "visits")
    pid = killed(folder, tmp_path / "lake", "no")
    note_death(folder, pid)
    # In the order of names it comes first.
    (folder / "dead_0").write_text("")
    account(lake, folder)
    assert len(read_ledger(lake, run="serve-killed")) == 1
    assert sorted(file.name for file in folder.glob("dead_*")) == ["dead_0"]


def test_a_process_number_is_not_taken_twice(tmp_path: Path) -> None:
    (tmp_path / f"counter_{os.getpid()}.db").touch()
    with pytest.raises(FileExistsError, match="take another"):
        begin(tmp_path, "serve-second", 0)
