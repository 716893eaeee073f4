"""What dies under a night whose lake is on HDFS: the next run ends as an undisturbed one."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.lake.lake import Lake
from jobs.settings.load import load_settings
from jobs.stores.files import Guarded
from tests.builders.contents import contents
from tests.builders.flights import configure, dates, land
from tests.builders.hdfs import Hdfs
from tests.builders.processes import DEADLINE_S, Process, millstream

pytestmark = pytest.mark.slow
DAYS = dates(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the raw files of a date."""
    folder = tmp_path_factory.mktemp("kills")
    land(folder, DAYS, 300)
    return folder


@pytest.fixture(scope="module")
def calm(folder: Path) -> dict[str, Any]:
    """What an undisturbed night on a local disk leaves."""
    config = configure(folder, "calm")
    with night(config) as process:
        assert process.code() == 0, "".join(process.said)
    return contents(load_settings(config), DAYS)


@pytest.fixture
def config(request: pytest.FixtureRequest, hdfs: Hdfs, folder: Path) -> Path:
    """Of a lake of the test's own on HDFS."""
    name = request.node.name.replace("[", "_").rstrip("]")
    place = hdfs.upload(folder / "raw", f"{name}/raw").removesuffix("/raw")
    return configure(folder, name, place)


@contextmanager
def night(config: Path) -> Iterator[Process]:
    with millstream("nightly", "--config", str(config), "--date", DAYS[0]) as process:
        yield process


def check_next_run(config: Path, calm: dict[str, Any]) -> None:
    with night(config) as process:
        assert process.code() == 0, "".join(process.said)
    assert contents(load_settings(config), DAYS) == calm


def a_rank_of(process: Process) -> psutil.Process:
    """One that trains, as soon as there is one."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        for child in psutil.Process(process.popen.pid).children(recursive=True):
            try:
                if "horovod.spark.task.gloo_exec_fn" in " ".join(child.cmdline()):
                    return child
            except psutil.NoSuchProcess:
                continue
    raise AssertionError("no rank was started")


@pytest.mark.parametrize("step", ["etl", "train"])
def test_a_driver_is_killed(config: Path, calm: dict[str, Any], step: str) -> None:
    with night(config) as process:
        process.until(f"step {step}")
        if step == "etl":
            process.until("checked:")
        process.kill()

    check_next_run(config, calm)


def test_a_rank_is_killed(config: Path, calm: dict[str, Any]) -> None:
    with night(config) as process:
        process.until("step train")
        a_rank_of(process).kill()
        assert process.code() != 0

    check_next_run(config, calm)


def test_one_of_two_data_nodes_dies(hdfs: Hdfs, config: Path, calm: dict[str, Any]) -> None:
    """What was written lies on the other one. A file that is being written may fail, by name."""
    with night(config) as process:
        process.until("step train")
        hdfs.data_nodes[0].kill()
        code = process.code()
    try:
        check_ended(process, code, hdfs)
        # The name node knows by now; the next run does with the one that is left.
        hdfs.until_ready(1)
        check_next_run(config, calm)
    finally:
        hdfs.data_nodes[0].restart()
        hdfs.until_ready(2)


def check_ended(process: Process, code: int, hdfs: Hdfs) -> None:
    """Undisturbed, or with a sentence that names the store."""
    said = "".join(process.said)
    assert code in (0, 1, 3), said
    if code:
        assert f"127.0.0.1:{hdfs.port}" in said
        assert "Traceback" not in said


@pytest.mark.parametrize("step", ["etl", "train"])
def test_the_name_node_starts_again_in_the_middle(
    hdfs: Hdfs, config: Path, calm: dict[str, Any], step: str
) -> None:
    with night(config) as process:
        process.until(f"step {step}")
        hdfs.name_node.restart()
        code = process.code()
    hdfs.until_ready(2)

    check_ended(process, code, hdfs)
    check_next_run(config, calm)


def test_a_name_node_that_stays_away_ends_a_command_and_is_named(hdfs: Hdfs, config: Path) -> None:
    etl = ("etl", "--config", str(config), "--date", DAYS[0])
    with millstream(*etl) as process:
        process.until("raw rows of")
        hdfs.name_node.kill()
        try:
            code = process.code()
        finally:
            hdfs.name_node.restart()
            hdfs.until_ready(2)

    assert code != 0
    check_ended(process, code, hdfs)
    with millstream(*etl) as process:
        assert process.code() == 0, "".join(process.said)


def test_of_two_nights_at_once_one_works(config: Path, calm: dict[str, Any]) -> None:
    with night(config) as one, night(config) as other:
        codes = {one.code(): one, other.code(): other}

    assert sorted(codes) == [0, 5], [*one.said, *other.said]
    assert "is held by run nightly-" in "".join(codes[5].said)
    assert contents(load_settings(config), DAYS) == calm


def test_a_night_that_was_stopped_and_taken_over_commits_nothing(
    config: Path, calm: dict[str, Any]
) -> None:
    """It is frozen for longer than its lease; when it goes on, its token is too old."""
    with night(config) as frozen:
        frozen.until("fitted")
        frozen.popen.send_signal(signal.SIGSTOP)
        lose_locks(config)
        check_next_run(config, calm)
        frozen.popen.send_signal(signal.SIGCONT)
        assert frozen.code() == 5, "".join(frozen.said)

    assert contents(load_settings(config), DAYS) == calm


def lose_locks(config: Path) -> None:
    """As if the leases had run out: holders of another host that said nothing for long."""
    lake = Lake(load_settings(config).lake_url, "flights")
    for stage in ("nightly", "etl"):
        file = Guarded(lake.folder("locks", f"{stage}.json"))
        content, tag = file.read()
        assert content is not None
        old = {**json.loads(content), "host": "elsewhere", "renewed_at": 0.0}
        assert file.swap(json.dumps(old).encode(), tag)
