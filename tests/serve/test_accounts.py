"""Law 14: received = answered + refused + shed + failed, by version, once a replica has drained."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.lake.ledger import read_ledger
from jobs.serve.accounts import Accounts
from jobs.serve.left import OUTCOMES, RECEIVED
from jobs.serve.request.errors import RequestError, Shed
from jobs.settings.load import load_settings
from tests.builders.models import lake_of
from tests.builders.servers import serving
from tests.serve.conftest import Served
from tests.serve.test_bad_input import GOOD


def totals(rows: list[dict[str, Any]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows:
        found.update(row["counts"])
    return found


def test_counts_stay_until_the_store_takes_them(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_of(served.settings)
    before = len(read_ledger(lake, stage="serve"))
    accounts = Accounts(lake, "serve-test", 0, shared=False)
    with accounts.request("1"):
        accounts.rows("1", 3, 1)
    for error in (RequestError("no"), Shed("full"), ZeroDivisionError()):
        with pytest.raises(type(error)), accounts.request("2"):
            raise error
    with monkeypatch.context() as away:
        away.setattr("jobs.serve.accounts.record", lambda *_: 1 // 0)
        assert not accounts.write()
    assert accounts.write()
    rows = read_ledger(lake, run="serve-test")
    assert len(read_ledger(lake, stage="serve")) == before + 2
    by_version = {row["versions"]["model"]: row["counts"] for row in rows}
    assert by_version == {
        "1": {"received": 1, "answered": 1, "rows_scored": 3, "rows_refused": 1},
        "2": {"received": 3, "refused": 1, "shed": 1, "failed": 1},
    }
    # Nothing is told twice.
    assert accounts.write()
    assert len(read_ledger(lake, run="serve-test")) == 2


def test_a_server_that_drains_accounts_for_each_request(served: Served, tmp_path: Path) -> None:
    # Other tests ask what the table `served` has of theirs.
    raw = served.raw.copy(tmp_path / "copy")
    lake = lake_of(load_settings(raw.config))
    before = totals(read_ledger(lake, stage="serve"))
    options = (
        served.parents,
        "serve.queue_rows=64",
        "serve.most_rows=64",
        "serve.account_s=0.5",
        "serve.log_fraction=0.5",
    )
    # Appended by all threads; adding up is no single step.
    codes: list[int] = []
    with serving(raw.config, tmp_path / "log", *options, "serve.replicas=2") as server:
        server.until("replica 1: http")

        def ask(number: int) -> None:
            for turn in range(40):
                row = {**GOOD, "visit": number * 1_000 + turn, **({"age": 500} if turn % 5 else {})}
                rows = [row] * 30 if turn % 7 else [{}]
                body = json.dumps({"dataframe_records": rows}).encode()
                codes.append(server.ask("POST", "/invocations", body)[0])

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        page = server.ask("GET", "/metrics")[2].decode()
        assert server.end() == 0
    found, seen = totals(read_ledger(lake, stage="serve")) - before, Counter(codes)
    assert seen[200] and set(seen) <= {200, 400, 429}
    assert found[RECEIVED] == 160 == sum(found[name] for name in OUTCOMES)
    assert (found["answered"], found["refused"], found["shed"], found["failed"]) == (
        seen[200],
        seen[400],
        seen[429],
        0,
    )
    assert found["rows_scored"] + found["rows_refused"] == 30 * seen[200]
    # Prometheus knows of both replicas, whichever was asked.
    counted = sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith("millstream_serve_requests_total{") and 'outcome="received"' in line
    )
    assert counted == 160
    kept = lake.table("served").read_arrow().to_pylist()
    raws = {row["raw"] for row in kept}
    assert 0 < len(raws) < 160
    assert {row["model_version"] for row in kept} == {served.models[0]}
    assert all((row["score"] is None) == bool(row["reasons"]) for row in kept)
