"""Locks: one holder a stage, the dead are taken over, and a lost lock is noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from jobs.base.errors import ConfigError, Locked
from jobs.lake import lock
from jobs.lake.lake import Lake
from jobs.lake.lock import stage_lock
from jobs.stores.files import Guarded
from tests.builders.s3 import S3, SILENCE


@pytest.fixture(params=["local", "s3", pytest.param("hdfs", marks=pytest.mark.slow)])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "local":
        return Lake(str(tmp_path), "made_up")
    return Lake(request.getfixturevalue(request.param).url(tmp_path.name), "made_up")


def holder(lake: Lake) -> dict[str, Any]:
    content, _ = Guarded(lake.folder("locks", "etl.json")).read()
    assert content is not None
    return dict(json.loads(content))


def rewrite(lake: Lake, **changes: Any) -> None:
    file = Guarded(lake.folder("locks", "etl.json"))
    swapped = False
    while not swapped:
        # A renewal may come between.
        _, tag = file.read()
        swapped = file.swap(json.dumps({**holder(lake), **changes}).encode(), tag)


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
        "import os\nfrom jobs.lake.lake import Lake\nfrom jobs.lake.lock import stage_lock\n"
        f"with stage_lock(Lake({lake.url.rsplit('/', 1)[0]!r}, 'made_up'), 'etl', 'dead'):\n"
        "    os._exit(9)\n"
    )
    died = subprocess.run([sys.executable, "-c", code], check=False)
    assert died.returncode == 9
    assert holder(lake)["run"] == "dead"
    with stage_lock(lake, "etl", "next") as held:
        assert held.token == 2


def test_a_pid_that_belongs_to_another_process_by_now_is_dead(lake: Lake) -> None:
    with stage_lock(lake, "etl", "first"):
        rewrite(lake, pid_started_at=1.0)
        with stage_lock(lake, "etl", "second") as held:
            assert held.token == 2


def test_a_holder_that_was_never_waited_for_is_dead(lake: Lake) -> None:
    code = (
        "import os\nfrom jobs.lake.lake import Lake\nfrom jobs.lake.lock import stage_lock\n"
        f"with stage_lock(Lake({lake.url.rsplit('/', 1)[0]!r}, 'made_up'), 'etl', 'dead'):\n"
        "    os._exit(9)\n"
    )
    died = subprocess.Popen([sys.executable, "-c", code])
    os.waitid(os.P_PID, died.pid, os.WEXITED | os.WNOWAIT)
    assert holder(lake)["run"] == "dead"
    with stage_lock(lake, "etl", "next") as held:
        assert held.token == 2
    died.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="times of starts are the wall clock's there")
def test_a_stepped_clock_takes_no_lock_away(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    boot_time = psutil._pslinux.boot_time
    with stage_lock(lake, "etl", "first"):
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot_time() + 3600)
        with pytest.raises(Locked, match="run first"), stage_lock(lake, "etl", "second"):
            pass
        assert lock.live_runs(lake) == {"first"}


def test_a_stepped_clock_of_some_seconds_is_stood_without_proc(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_PROC", tmp_path / "no_proc")
    with stage_lock(lake, "etl", "first"):
        rewrite(lake, pid_started_at=holder(lake)["pid_started_at"] - 3)
        assert lock.live_runs(lake) == {"first"}
        rewrite(lake, pid_started_at=holder(lake)["pid_started_at"] - 3)
        assert not lock.live_runs(lake)


@pytest.mark.parametrize("where", [{"pid_namespace": "pid:[1]"}, {"boot": "another"}])
def test_a_holder_whose_pid_means_nothing_here_keeps_its_lease(
    lake: Lake, where: dict[str, str]
) -> None:
    """In a container with the host's name, or on a host of the same name."""
    with stage_lock(lake, "etl", "first"):
        rewrite(lake, **where, pid=2**22 + 1)
        assert lock.live_runs(lake) == {"first"}
        rewrite(lake, renewed_at=holder(lake)["renewed_at"] - 61)
        with stage_lock(lake, "etl", "second"):
            pass


def test_a_holder_on_another_host_keeps_its_lease(lake: Lake) -> None:
    with stage_lock(lake, "etl", "first"):
        rewrite(lake, host="elsewhere")
        with pytest.raises(Locked, match="host elsewhere"), stage_lock(lake, "etl", "second"):
            pass
        rewrite(lake, renewed_at=holder(lake)["renewed_at"] - 61)
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
            if holder(lake)["renewed_at"] > 0:
                break
        assert holder(lake)["renewed_at"] > 0


def test_the_lease_is_renewed_after_whatever_error_of_the_store(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "RENEW_S", 0.01)
    # botocore's errors are no OSErrors.
    errors: list[Exception] = [
        EndpointConnectionError(endpoint_url="http://store"),
        ClientError({"Error": {"Code": "SlowDown"}}, "PutObject"),
        ValueError("half a lock file"),
    ]
    swap = lock._swap

    def failing(*arguments: Any) -> bool:
        if errors and threading.current_thread() is not threading.main_thread():
            raise errors.pop()
        return swap(*arguments)

    monkeypatch.setattr(lock, "_swap", failing)
    with stage_lock(lake, "etl", "first"):
        rewrite(lake, renewed_at=0.0)
        for _ in range(10_000):
            if holder(lake)["renewed_at"] > 0 and not errors:
                break
        assert holder(lake)["renewed_at"] > 0
    assert caplog.text.count("was not renewed, trying again") == 3


def test_a_renewal_under_way_does_not_take_a_released_lock_back(lake: Lake) -> None:
    with stage_lock(lake, "etl", "first") as held:
        pass
    assert not held._write(renewed_at=1.0)
    assert holder(lake)["released"]


def test_a_store_that_fails_at_the_release_fails_no_run(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any) -> bool:
        raise EndpointConnectionError(endpoint_url="http://store")

    with stage_lock(lake, "etl", "first"):
        monkeypatch.setattr(lock, "_swap", failing)
    assert not holder(lake).get("released"), "the store did not take it"


def test_a_silent_store_keeps_neither_the_renewals_nor_the_end_waiting(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEW_S", 0.05)
    monkeypatch.setattr(lock, "RENEWAL_S", 0.3)
    monkeypatch.setattr(lock, "RELEASE_S", 0.2)
    lake = Lake(s3.url(tmp_path.name), "made_up")
    with (
        stage_lock(lake, "etl", "first"),
        s3.failing(tmp_path.name, SILENCE, times=1, method="PUT"),
    ):
        before = time.time()
        for _ in range(10_000):
            if holder(lake)["renewed_at"] > before:
                break
        assert holder(lake)["renewed_at"] > before, "one that hangs is not the last"
    held = stage_lock(lake, "score", "second")
    held.__enter__()
    with s3.failing(tmp_path.name, SILENCE, method="PUT"):
        held.__exit__(None, None, None)


def test_of_many_that_take_it_at_once_one_holds_it(lake: Lake) -> None:
    together = threading.Barrier(4)
    tokens: list[int | None] = []

    def take(number: int) -> None:
        together.wait()
        try:
            with stage_lock(lake, "etl", f"run{number}") as held:
                tokens.append(held.token)
                together.wait()
        except Locked:
            tokens.append(None)
            together.wait()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(tokens, key=bool) == [None, None, None, 1]


def test_a_write_guarded_by_what_was_read_is_refused_after_another(lake: Lake) -> None:
    file = Guarded(lake.folder("locks", "x.json"))
    assert file.read()[0] is None
    _, absent = file.read()
    assert file.swap(b"first", absent)
    content, tag = file.read()
    assert content == b"first"

    assert file.swap(b"second", tag)

    assert not file.swap(b"third", tag)
    assert not file.swap(b"third", absent)
    assert file.read()[0] == b"second"


def test_a_store_that_cannot_keep_a_lock_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match="cannot guard a file"),
        stage_lock(Lake("memory://bucket/lake", "made_up"), "etl", "run"),
    ):
        pass
