"""What rank 0 takes for weights, moments and their copies is what `docs/cluster.md` says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Prints the most memory that a process took which trained on one rank, in bytes.
CODE = """
import re, sys
from dataclasses import replace
from pathlib import Path
from jobs.train.exchange.exchange import Alone
from jobs.train.keep.commits import RankMemory
from jobs.train.rank import train_rank
from tests.builders.examples import write_examples
from tests.builders.training import PLACES, job_of

rows, optimizer, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
examples = write_examples(folder / "lake", PLACES)
train = {"model": "mlp", "optimizer": optimizer, "commit_steps": 4, "checkpoint_rows": 512}
job = job_of(examples, folder / "run", **train)
spec = replace(job.spec, table_rows=(rows, rows, 1001), embedding_dims=(16, 16, 4))
train_rank(replace(job, spec=spec), Alone(), RankMemory())
# Not getrusage's: that counts what the process was forked from, too.
print(int(re.search(r"VmHWM:\\s*(.*) kB", Path("/proc/self/status").read_text())[1]) << 10)
"""
ROWS = 600_000


def taken(rows: int, optimizer: str, folder: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(rows), optimizer, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "moments"), [("adam", 2), ("sgd", 0)])
def test_rank_0_takes_what_is_said(optimizer: str, moments: int, tmp_path: Path) -> None:
    parameters = 4 * 2 * ROWS * 16
    stated = parameters * (4 * (1 + moments) + 2 * max(1, moments))
    measured = taken(ROWS, optimizer, tmp_path / "large") - taken(
        1001, optimizer, tmp_path / "small"
    )
    assert parameters < measured < 1.05 * stated
