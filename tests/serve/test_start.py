"""A replica that takes its time to start is not taken for a frozen one; one that cannot answer
ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.builders.processes import ROOT
from tests.builders.servers import serving
from tests.serve.conftest import Served


def test_a_start_may_take_longer_than_a_stall(served: Served, tmp_path: Path) -> None:
    """Loading the libraries takes seconds, in which no replica gives a sign."""
    options = (served.parents, "serve.stall_s=2")
    with serving(served.raw.config, tmp_path / "log", *options) as server:
        before, _, _ = server.said.partition("replica 0: http")
        assert "is still" not in before


# A socket that nobody can connect to, as HTTP's.
_DEAF = """
import asyncio, socket, sys
from pathlib import Path
from jobs.serve.replica import Replica
from jobs.settings.load import load_settings

config, folder = sys.argv[1:]
settings = load_settings(Path(config), ["serve.grpc_port=null"])
deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
deaf.bind(("127.0.0.1", 0))
asyncio.run(Replica(settings, 0, Path(folder), lambda at: None).run(deaf))
"""


def test_a_replica_whose_http_server_fails_ends(served: Served, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", _DEAF, str(served.raw.config), str(tmp_path)]
    ended = subprocess.run(
        command, env=environment, timeout=120, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1 and "Stream Socket" in ended.stderr
