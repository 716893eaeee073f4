"""Tables that no rank may hold, under a limit of the kernel on the memory of every process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_tables_of_three_times_what_a_rank_may_hold_are_trained_and_scored_with() -> None:
    command = [sys.executable, "-m", "benchmarks.bench_limits", "--values", "100000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1_500, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    steps = figures["steps"]
    codes = {name: step["code"] for name, step in steps.items()}
    assert codes.pop("replicated, unchecked") == 1, done.stderr[-4000:]
    assert "can't allocate memory" in done.stderr
    assert codes.pop("replicated") == 2
    assert set(codes.values()) == {0}, done.stderr[-4000:]
    assert ": lost rank " in steps["a rank killed"]["said"]
    assert "a rank with all tables may take" in steps["replicated"]["said"]
    assert f"at most {figures['limit_mb']:,} MB (train.memory_mb)" in steps["replicated"]["said"]
    # Tables and moments of three times what the limit leaves for them.
    held = figures["limit_mb"] - figures["beside_mb"]
    assert figures["state_mb"] > 3 * (held - 1)
    assert 0 < steps["sharded"]["counted_mb"]["rank"] <= figures["limit_mb"]
    assert "2,000 rows" in steps["score"]["said"]
