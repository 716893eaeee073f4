"""Copies of tables on disk: files without a name, which go with the tensors or the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jobs.base.errors import ConfigError
from jobs.train.tables.room import MEMORY, Room

DISK = Room(is_disk=True)

HOLDS = """
import sys, torch
from jobs.train.tables.room import Room
held = Room(is_disk=True).zeros((1 << 20,), torch.float32).fill_(1)
print("holds", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(5,), (5, 3), (0, 3)])
def test_both_rooms_hold_the_same(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for room in (MEMORY, DISK):
        held = room.zeros(shape, dtype)
        assert held.dtype == dtype and held.shape == shape and not held.any()
        values = torch.arange(held.numel()).view(shape).to(dtype)
        held.copy_(values)
        assert torch.equal(held, values)
        places = torch.arange(len(held))[::2]
        (rows,) = room.rows_at({"rows": held}, places).values()
        assert torch.equal(rows, values[::2])


def test_the_disk_is_free_when_a_tensor_is_gone(tmp_path: Path, in_tmp: None) -> None:
    before = _files()
    held = DISK.zeros((1 << 18,), torch.float32)
    assert len(_files() - before) == 1 and not list(tmp_path.iterdir())
    del held
    assert _files() <= before


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "holds\n"
    assert str(tmp_path) in Path(f"/proc/{child.pid}/maps").read_text()
    child.kill()
    child.wait()
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_refused_with_the_size() -> None:
    with pytest.raises(ConfigError, match=r"has no room for 1,073,741,824 MB.*") as refused:
        DISK.zeros((1 << 50,), torch.uint8)
    assert "TMPDIR" in (refused.value.remedy or "")


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def _files() -> set[str]:
    """Places of mapped files without a name."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[0] for line in lines if line.endswith("(deleted)")}
