"""Scores that hang, in a server behind nginx: it is replaced, and only what it held is lost."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobs.lake.ledger import read_ledger
from jobs.serve.left import OUTCOMES, RECEIVED, STAGE
from tests.builders.lakes import lake_of
from tests.builders.processes import ROOT
from tests.builders.servers import serving
from tests.serve.conftest import Served
from tests.serve.test_nginx import Clients, balancing, http_status, is_ready, is_replaced, until

# Python runs it at the start of a process; the replica that finds the file hangs once.
HOOK = """
import os
import threading
from pathlib import Path

FILE = Path(os.environ["HANGS_ONCE"])


def hang_once():
    from jobs.serve.champion import Champion

    own = Champion.answers

    def answers(self, rows):
        if FILE.exists():
            FILE.unlink()
            threading.Event().wait()
        return own(self, rows)

    Champion.answers = answers


os.register_at_fork(after_in_child=hang_once)
"""
_CLIENTS = 4


@pytest.mark.slow
def test_a_replica_whose_scores_hang_is_replaced(served: Served, tmp_path: Path) -> None:
    raw = served.raw.copy(tmp_path / "lake")
    others = {row["run"] for row in read_ledger(lake_of(raw), stage=STAGE)}
    row = {name: served.night[0][name] for name in ("day", "visit", "shop", "amount", "age")}
    (tmp_path / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    file = tmp_path / "hang"
    hangs = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "HANGS_ONCE": str(file)}
    options = (served.parents, "serve.deadline_ms=1000", "serve.stall_s=5")
    with ExitStack() as stack:
        hung, sound = (
            stack.enter_context(
                serving(raw.config, tmp_path / f"log-{number}", *options, environment=environment)
            )
            for number, environment in enumerate((hangs, {}))
        )
        folder = tmp_path / "nginx"
        folder.mkdir()
        port, _ = stack.enter_context(balancing([hung, sound, sound], folder))
        clients = Clients([partial(http_status, port, row)] * _CLIENTS)
        (replica,) = hung.replicas()
        with clients.asking():
            until(lambda: clients.asked > 50)
            file.touch()
            until(lambda: not is_ready(hung.port))
            until(lambda: is_replaced(hung, replica) and is_ready(hung.port))
            before = clients.asked
            until(lambda: clients.asked > before + 50)
        print(clients.outcomes)
        for server in (hung, sound):
            assert server.end() == 0
    assert "is still; it is replaced" in hung.said
    lost = {name: count for name, count in clients.outcomes.items() if name != "200"}
    # One is asked again before it is known that the first hangs.
    assert all(name.startswith("504") for name in lost) and sum(lost.values()) <= 2 * _CLIENTS
    check_sums([row for row in read_ledger(lake_of(raw), stage=STAGE) if row["run"] not in others])


def check_sums(rows: list[dict[str, Any]]) -> None:
    by_run: dict[str, Counter[str]] = {}
    for row in rows:
        by_run.setdefault(row["run"], Counter()).update(row["counts"])
    assert len(by_run) == 3
    for counts in by_run.values():
        assert counts[RECEIVED] == sum(counts[name] for name in OUTCOMES)
        assert not counts["failed"] and not counts["refused"]
