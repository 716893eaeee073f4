"""Locks: one holder a stage, the dead are taken over, and a lost lock is noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import lock
from jobs.errors import ConfigError, Locked
from jobs.lake import Lake
from jobs.lock import stage_lock


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path), "made_up")


def holder_file(lake: Lake) -> Path:
    return Path(lake.folder("locks", "etl.json"))


def rewrite(lake: Lake, **changes: Any) -> None:
    path = holder_file(lake)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_second_holder_is_refused_and_told_who_the_first_is(lake: Lake) -> None:
    with stage_lock(lake, "etl", "first"):
        with (
            pytest.raises(Locked, match="held by run first") as refused,
            stage_lock(lake, "etl", "second"),
        ):
            pass
        with stage_lock(lake, "score", "third"):
            pass
    assert refused.value.exit_code == 5
    with stage_lock(lake, "etl", "fourth"):
        pass


def test_every_taking_has_a_higher_token(lake: Lake) -> None:
    tokens = []
    for run in ("a", "b", "c"):
        with stage_lock(lake, "etl", run) as held:
            tokens.append(held.token)
    assert tokens == sorted(set(tokens))


def test_a_dead_process_on_this_host_is_taken_over_at_once(lake: Lake) -> None:
    code = (
        "import os\nfrom jobs.lake import Lake\nfrom jobs.lock import stage_lock\n"
        f"with stage_lock(Lake({str(Path(lake.url).parent)!r}, 'made_up'), 'etl', 'dead'):\n"
        "    os._exit(9)\n"
    )
    died = subprocess.run([sys.executable, "-c", code], check=False)
    assert died.returncode == 9
    assert json.loads(holder_file(lake).read_text())["run"] == "dead"
    with stage_lock(lake, "etl", "next") as held:
        assert held.token == 2


def test_a_pid_that_belongs_to_another_process_by_now_is_dead(lake: Lake) -> None:
    with stage_lock(lake, "etl", "first"):
        rewrite(lake, pid_started_at=1.0)
        with stage_lock(lake, "etl", "second") as held:
            assert held.token == 2


def test_a_holder_on_another_host_keeps_its_lease(lake: Lake) -> None:
    with stage_lock(lake, "etl", "first"):
        rewrite(lake, host="elsewhere")
        with pytest.raises(Locked, match="host elsewhere"), stage_lock(lake, "etl", "second"):
            pass
        rewrite(lake, renewed_at=json.loads(holder_file(lake).read_text())["renewed_at"] - 61)
        with stage_lock(lake, "etl", "third"):
            pass


def test_a_holder_that_was_taken_over_may_not_commit(lake: Lake) -> None:
    with stage_lock(lake, "etl", "first") as held:
        held.check()
        rewrite(lake, pid_started_at=1.0)
        with (
            stage_lock(lake, "etl", "second"),
            pytest.raises(Locked, match="taken over by run second"),
        ):
            held.check()
    with stage_lock(lake, "etl", "third") as newest:
        newest.check()


def test_the_lease_is_renewed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW_S", 0.01)
    with stage_lock(lake, "etl", "first"):
        rewrite(lake, renewed_at=0.0)
        for _ in range(10_000):
            if json.loads(holder_file(lake).read_text())["renewed_at"] > 0:
                break
        assert json.loads(holder_file(lake).read_text())["renewed_at"] > 0


def test_a_lake_without_a_file_system_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match="no file system"),
        stage_lock(Lake("s3://bucket/lake", "made_up"), "etl", "run"),
    ):
        pass
