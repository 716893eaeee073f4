"""Promotions under load, and replicas that die or freeze: each answer is one version's own."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.lake.ledger import new_run_id
from jobs.registry.listing import roll_back
from jobs.settings.load import load_settings
from tests.builders.models import lake_of
from tests.builders.servers import Server, serving
from tests.serve.conftest import Served
from tests.serve.test_same_numbers import COLUMNS

ROWS = 20


class Clients:
    """Threads that ask again and again; the answers are looked at when they have ended."""

    def __init__(self, server: Server, rows: list[dict[str, Any]], count: int = 4) -> None:
        self.answers: list[tuple[str, tuple[float, ...]]] = []
        self.failures: Counter[str] = Counter()
        self._server, self._body = server, json.dumps({"dataframe_records": rows}).encode()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._end.is_set():
            try:
                status, _, content = self._server.ask("POST", "/invocations", self._body)
            except (OSError, http.client.HTTPException) as error:
                self.failures[type(error).__name__] += 1
                continue
            if status != 200:
                self.failures[f"{status} {content.decode()}"] += 1
                continue
            found = json.loads(content)["predictions"]
            (version,) = {row["model_version"] for row in found}
            self.answers.append((version, tuple(row["score"] for row in found)))


def own_scores(served: Served, folder: Path) -> dict[str, tuple[float, ...]]:
    """By version, what it alone answers."""
    from jobs.serve.champion import load_champion
    from jobs.serve.live import Live
    from jobs.serve.request.rows import raw_rows

    settings = load_settings(served.raw.config, [served.parents])
    live = Live(settings, folder)
    live.look()
    assert live.champion is not None
    parents = live.champion.engine.parents
    found = {}
    for model in served.models:
        version = served.registry.resolve(model)
        champion = load_champion(
            settings.serve, settings.dataset(), lake_of(settings), version, parents, folder
        )
        columns = {name: [row[name] for row in served.night[:ROWS]] for name in COLUMNS}
        rows = raw_rows(settings.dataset(), columns, champion.looked_up)
        found[model] = tuple(champion.answers(rows).scores.tolist())
    return found


def rows_of(served: Served) -> list[dict[str, Any]]:
    return [{name: row[name] for name in COLUMNS} for row in served.night[:ROWS]]


def check(clients: Clients, expected: dict[str, tuple[float, ...]]) -> None:
    for version, scores in clients.answers:
        assert scores == pytest.approx(expected[version], abs=0)


@pytest.mark.slow
def test_a_hundred_promotions_and_rollbacks_under_load(served: Served, tmp_path: Path) -> None:
    expected = own_scores(served, tmp_path)
    assert len(set(expected.values())) == 2
    options = (served.parents, "serve.watch_s=0.05")
    delays = []
    try:
        with (
            serving(served.raw.config, tmp_path / "log", *options) as server,
            Clients(server, rows_of(served)) as clients,
        ):
            for turn in range(100):
                to = swap(served, turn)
                started = time.monotonic()
                while server.get("/v2/models/visits")["versions"] != [to]:
                    assert time.monotonic() - started < 30
                delays.append(time.monotonic() - started)
    finally:
        served.registry.promote(served.models[0], new_run_id("promote"))
    assert not clients.failures
    assert {version for version, _ in clients.answers} == set(served.models)
    check(clients, expected)
    middle = sorted(delays)[len(delays) // 2]
    print(f"{len(clients.answers)} answers, swaps after {middle:.2f} s, {max(delays):.2f} at most")


def swap(served: Served, turn: int) -> str:
    """Promotes the second model, or rolls back to the first; the version that is to be live."""
    if turn % 2 == 0:
        served.registry.promote(served.models[1], new_run_id("promote"))
        return served.models[1]
    roll_back(served.registry, new_run_id("rollback"), None)
    return served.models[0]


def _replica_that_answers(server: Server) -> psutil.Process:
    replicas = server.replicas()
    assert len(replicas) == 2
    return replicas[0]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_replica_that_dies_or_freezes_is_replaced(
    served: Served, tmp_path: Path, fault: signal.Signals
) -> None:
    """What it had under way is lost to its clients, which ask again; all answers are right."""
    expected = own_scores(served, tmp_path)
    options = (served.parents, "serve.replicas=2", "serve.stall_s=3")
    with serving(served.raw.config, tmp_path / "log", *options) as server:
        server.until("replica 1: http")
        with Clients(server, rows_of(served)) as clients:
            hit = _replica_that_answers(server)
            os.kill(hit.pid, fault)
            server.until("is still" if fault == signal.SIGSTOP else "ended; it is started again")
            end = time.monotonic() + 60
            while server.said.count(": http") < 3:
                assert time.monotonic() < end, server.said
                time.sleep(0.05)
            before = len(clients.answers)
            while len(clients.answers) < before + 20:
                assert time.monotonic() < end
                time.sleep(0.05)
        assert len({process.pid for process in server.replicas()}) == 2
        assert hit.pid not in {process.pid for process in server.replicas()}
        check(clients, expected)
        # Connections of the process that was hit, one a client and those that it had accepted.
        assert sum(clients.failures.values()) <= 8, clients.failures
        assert not [name for name in clients.failures if name[0].isdigit()]
        assert server.end() == 0


@pytest.mark.slow
def test_a_store_that_is_away_stops_no_answers(served: Served, tmp_path: Path) -> None:
    """The ledger and `served` cannot be written, the registry cannot be read: it serves on."""
    raw = served.raw.copy(tmp_path / "copy")
    lake = Path(load_settings(raw.config).lake_url)
    options = (served.parents, "serve.watch_s=0.1", "serve.account_s=0.1", "serve.log_fraction=1")
    away = lake.with_name("lake-away")
    with serving(raw.config, tmp_path / "log", *options) as server:
        first = server.invoke(rows_of(served))
        lake.rename(away)
        # A file in its place, so that nothing can be made there.
        lake.write_text("")
        try:
            for _ in range(30):
                assert server.invoke(rows_of(served)) == first
                time.sleep(0.02)
            server.until("the ledger did not take the counts")
        finally:
            lake.unlink()
            away.rename(lake)
        assert server.invoke(rows_of(served)) == first
        assert server.end() == 0


@pytest.mark.slow
def test_a_full_disk_under_served_stops_no_answers(served: Served, tmp_path: Path) -> None:
    """The rows that find no room are counted, and those after them are kept again."""
    raw = served.raw.copy(tmp_path / "copy")
    table = Path(lake_of(load_settings(raw.config)).table("served").url)
    kept = ("serve.log_fraction=1", "serve.log_queue_rows=50", "serve.account_s=0.1")
    with serving(raw.config, tmp_path / "log", served.parents, *kept) as server:
        first = server.invoke(rows_of(served))
        # A file in the table's place: each write to it fails, as with no space left.
        shutil.rmtree(table, ignore_errors=True)
        table.write_text("")
        for _ in range(10):
            assert server.invoke(rows_of(served)) == first
        server.until("`served` did not take")
        dropped = dropped_of(server)
        table.unlink()
        assert server.invoke(rows_of(served)) == first
        assert server.end() == 0
    asked = 12 * ROWS
    rows = lake_of(load_settings(raw.config)).table("served").read_arrow().num_rows
    assert dropped >= asked - 2 * ROWS - 50 and rows <= asked - dropped
    assert rows >= ROWS


def dropped_of(server: Server) -> int:
    page = server.ask("GET", "/metrics")[2].decode()
    name = "millstream_serve_sample_dropped_total "
    (line,) = [line for line in page.splitlines() if line.startswith(name)]
    return int(float(line.removeprefix(name)))


def test_the_server_knows_no_spark() -> None:
    import subprocess
    import sys

    code = "import sys, jobs.serve.replica, jobs.serve.job; sys.exit('pyspark' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_ends_with_its_supervisor(served: Served, tmp_path: Path) -> None:
    with serving(served.raw.config, tmp_path / "log", served.parents) as server:
        (replica,) = server.replicas()
        server.process.kill()
        server.process.wait()
        replica.wait(timeout=60)
        assert not replica.is_running()
