"""Under a limit of the kernel on memory of its own, a rank's copies on disk take next to none."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A piece of 256 MiB: made, copied, changed in all rows, written and dealt out again.
CODE = """
import re, resource, sys
from pathlib import Path

import torch

from jobs.models.tables.buckets import Buckets
from jobs.train.exchange.exchange import Alone
from jobs.train.tables.kept import KeptTables
from jobs.train.tables.room import Room

ROWS, EXCHANGE = 1 << 17, Alone()
buckets = {"a": Buckets(ROWS, 64)}
rows, moments = torch.ones(ROWS, 256), torch.ones(ROWS, 256)
status = Path("/proc/self/status").read_text()
limit = (int(re.search(r"VmData:\\s+(\\d+)", status)[1]) + (160 << 10)) << 10
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
kept = KeptTables.of(EXCHANGE, buckets, {"a": {"rows": rows}}, Room(sys.argv[1] == "disk"))
piece = {"a": {"rows": rows.mul_(2), "sum": moments}}
kept.commit(EXCHANGE, piece, {"a": torch.ones(ROWS, dtype=torch.bool)})
kept.settle()
written = kept.unwritten()["a"]
assert len(written.places) == ROWS and bool((written.tensors["rows"] == 2).all())
del written, piece, moments
rows.zero_()
dealt = kept.regrouped(EXCHANGE, buckets, kept.holders(EXCHANGE), {"a": rows})
assert bool((rows == 2).all()) and bool((dealt["a"]["sum"] == 1).all())
print("done")
"""


@pytest.mark.parametrize("room", ["disk", "memory"])
def test_a_limited_rank_commits_with_its_copies_on_disk(room: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, room], capture_output=True, text=True, check=False, timeout=300
    )
    if room == "disk":
        assert done.stdout == "done\n", done.stderr
    else:
        assert done.returncode and "can't allocate memory" in done.stderr
