"""Probes: kept with a model while its scores come out, made again when they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from jobs.base.errors import DataRefused
from jobs.batch.batch import Batch
from jobs.evaluate.predict.exported import batch_of
from jobs.evaluate.predict.probe import check_probe, read_probe, write_probe
from jobs.lake.lake import Lake

ROWS = batch_of({"dense": torch.rand(5, 3), "sparse": torch.ones(5, 2, dtype=torch.int64)})


def total(batch: Batch) -> npt.NDArray[np.float32]:
    return batch.dense.sum(dim=1).numpy()


def test_a_probe_stays_while_its_scores_come_out(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path), "made_up")
    with pytest.raises(DataRefused, match="no probe"):
        read_probe(lake, "digest", "torch")
    write_probe(lake, "digest", "torch", total, ROWS)
    found = read_probe(lake, "digest", "torch")
    assert found.scores.tolist() == total(ROWS).tolist()
    check_probe(found, total)
    write_probe(lake, "digest", "torch", total, ROWS[:2])
    assert len(read_probe(lake, "digest", "torch").scores) == 5

    def other(batch: Batch) -> npt.NDArray[np.float32]:
        return 2 * total(batch)

    with pytest.raises(DataRefused, match="apart"):
        check_probe(found, other)
    write_probe(lake, "digest", "torch", other, ROWS)
    check_probe(read_probe(lake, "digest", "torch"), other)
