"""Ranks that join: those that wait for them are not taken for stuck."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import threading
import horovod.torch as hvd
from horovod.common.exceptions import HostsUpdatedInterrupt
from jobs.train.launch.elastic import Survivor

hvd.init()
failed = threading.Event()
survivor = Survivor("no folder", 0.2, lambda error: failed.set())
survivor.begin()
survivor.on_hosts_updated(1.0, 1)
try:
    survivor.check_host_updates()
    print("no interrupt")
except HostsUpdatedInterrupt:
    # A new rank starts meanwhile, and takes longer than stall_s.
    print("failed" if failed.wait(2) else "waits")
"""


def test_a_survivor_waits_for_a_new_rank_that_takes_its_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.stdout.split("\n")[0] == "waits", done.stderr
