"""What is under way at the end of a version or of a server: it ends on what it began with, and is
accounted for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.lake.ledger import new_run_id, read_ledger
from jobs.serve.left import OUTCOMES, RECEIVED, STAGE
from jobs.settings.load import load_settings
from tests.builders.models import lake_of
from tests.serve.conftest import Served
from tests.serve.held import Asked, held_server, until_received
from tests.serve.test_bad_input import GOOD
from tests.serve.test_nginx import until

ENCODED = "/v2/models/visits_encoded/infer"
TREE = {
    "inputs": [
        {"name": "dense", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.0, 3.0]},
        {"name": "sparse", "datatype": "INT64", "shape": [1, 2], "data": [5, 1]},
    ]
}


def test_requests_that_wait_end_on_the_version_that_they_began_with(
    served: Served, tmp_path: Path
) -> None:
    options = (served.parents, "serve.watch_s=0.05", "serve.deadline_ms=60000")
    first, second = served.models
    asked = ((ENCODED, TREE), ("/invocations", {"dataframe_records": [GOOD]}))
    try:
        with held_server(served.raw.config, tmp_path, *options) as (server, held):
            alone = [Asked(server, path, tree).ended() for path, tree in asked]
            held.touch()
            under_way = [Asked(server, path, tree) for path, tree in (asked[0], *asked, *asked)]
            until_received(server, 7)
            served.registry.promote(second, new_run_id("promote"))
            until(lambda: server.get("/v2/models/visits")["versions"] == [second])
            later = [Asked(server, path, tree) for path, tree in asked]
            until_received(server, 9)
            held.unlink()
            answers = [one.ended() for one in under_way]
            assert answers == [alone[0], *alone, *alone]
            assert all(one.ended()[0] == 200 for one in later)
            assert all(one.ended() not in alone for one in later)
            assert server.end() == 0
    finally:
        served.registry.promote(first, new_run_id("promote"))


def totals(served_by: Any, before: set[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in read_ledger(served_by, stage=STAGE):
        if row["run"] not in before:
            found.update(row["counts"])
    return found


@pytest.mark.parametrize("stuck", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_a_drain_does_not_wait_for_is_accounted(
    served: Served, tmp_path: Path, stuck: bool
) -> None:
    """Also where the replica does not end by itself, and is killed."""
    raw = served.raw.copy(tmp_path / "copy")
    lake = lake_of(load_settings(raw.config))
    before = {row["run"] for row in read_ledger(lake, stage=STAGE)}
    options = (served.parents, "serve.drain_s=0.5", "serve.deadline_ms=60000")
    with held_server(raw.config, tmp_path, *options) as (server, held):
        assert Asked(server, ENCODED, TREE).ended()[0] == 200
        held.touch()
        under_way = [Asked(server, ENCODED, TREE) for _ in range(2)]
        until_received(server, 3)
        if stuck:
            (tmp_path / "stuck").touch()
        assert server.end() == 0
        answers = [one.ended() for one in under_way]
    counts = totals(lake, before)
    assert counts[RECEIVED] == 3 == sum(counts[name] for name in OUTCOMES)
    assert counts["answered"] == 1
    if stuck:
        assert "is killed" in server.said
    else:
        assert counts["shed"] == 2
        assert [status for status, _ in answers] == [503, 503]
