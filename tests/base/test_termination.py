"""SIGTERM ends a run as a failure that observers are told of, with its own exit code."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from jobs.base.termination import Terminated, handlers_kept, interruption, terminable
from jobs.rows.base.duck import connection
from jobs.train.launch.ranks import _shutdown_event
from tests.builders.processes import millstream
from tests.builders.visits import Raw, rows_of
from tests.observe.runs import json_lines, run_of, settings_of


@pytest.mark.parametrize(("name", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_terminated_run_is_a_failed_one(tmp_path: Path, name: signal.Signals, code: int) -> None:
    # As in a terminal; tests may run under nohup.
    handler = signal.signal(name, signal.SIG_DFL)
    settings = settings_of(tmp_path, json_log="night.jsonl")
    with pytest.raises(Terminated), terminable(), run_of(settings, "nightly"):
        os.kill(os.getpid(), name)
    last = json_lines(tmp_path / "night.jsonl")[-1]
    assert (last["event"], last["exit_code"]) == ("fail", code)
    assert signal.signal(name, handler) == signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_so() -> None:
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, handler)


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_duckdb_hears_ends_a_command_all_the_same(name: signal.Signals) -> None:
    # As in a terminal; a shell's background jobs ignore it.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    sending = threading.Timer(0.3, os.kill, (os.getpid(), name))
    sending.start()
    try:
        with terminable(), connection(256) as duck:
            duck.execute("SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b")
    except (RuntimeError, KeyboardInterrupt) as error:
        found = interruption(error)
        assert isinstance(found, Terminated if name == signal.SIGTERM else KeyboardInterrupt)
    else:
        raise AssertionError("it was not interrupted")
    finally:
        sending.join()
        signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_horovod_hears_of_a_signal_that_ends_the_command(name: signal.Signals) -> None:
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with terminable(), handlers_kept() as kept:
            event = _shutdown_event()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), name)
        assert event.is_set()
        assert kept.keys() >= {signal.SIGINT, signal.SIGTERM}
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_command_that_trains_with_ranks_ends_with_them(
    tmp_path: Path, name: signal.Signals, code: int
) -> None:
    raw = Raw(tmp_path).add(rows_of("2024-01-01", 300)).write()
    config = ("--config", str(raw.config))
    with millstream("etl", *config, "--date", "2024-01-01") as process:
        assert process.code() == 0
    handler = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        train = ("train", *config, "--workers", "2", "--set", "train.epochs=100000")
        with millstream(*train) as process:
            process.until("epoch 1 of")
            family = psutil.Process(process.popen.pid).children(recursive=True)
            os.kill(process.popen.pid, name)
            assert process.code() == code
    finally:
        signal.signal(signal.SIGHUP, handler)
    assert "starting the ranks again" not in "".join(process.said)
    _, left = psutil.wait_procs(family, timeout=60)
    assert not left


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
