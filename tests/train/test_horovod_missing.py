"""What Horovod lacks is named: Horovod itself, and GPU operations."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from jobs.base.errors import ConfigError
from jobs.train.launch.ranks import refuse_without_horovod
from tests.builders.processes import ROOT


def test_its_absence_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "horovod.torch", None)
    with pytest.raises(ConfigError, match="3 workers, but Horovod cannot be imported") as raised:
        refuse_without_horovod(3)
    assert "make setup" in raised.value.remedy
    assert "train.workers: 1" in raised.value.remedy

    monkeypatch.undo()
    refuse_without_horovod(3)


def test_without_gpu_operations_ranks_compute_where_they_add_up() -> None:
    """Importing Horovod must not let torch look for GPUs before they are hidden."""
    code = (
        "import torch; asked = []\n"
        "torch.cuda.is_available = lambda: asked.append(1) or False\n"
        "import horovod.torch as hvd\n"
        "from jobs.train.launch.ranks import _leave_gpu\n"
        "assert not asked\n"
        "_leave_gpu()\n"
        "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    )
    said = subprocess.check_output(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
    )
    assert said.strip() == b"''"
