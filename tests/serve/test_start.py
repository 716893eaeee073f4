"""A replica that takes its time to start is not taken for a frozen one."""

from __future__ import annotations

from pathlib import Path

from tests.builders.servers import serving
from tests.serve.conftest import Served


def test_a_start_may_take_longer_than_a_stall(served: Served, tmp_path: Path) -> None:
    """Loading the libraries takes seconds, in which no replica gives a sign."""
    options = (served.parents, "serve.stall_s=1.2")
    with serving(served.raw.config, tmp_path / "log", *options) as server:
        before, _, _ = server.said.partition("replica 0: http")
        assert "is still" not in before
