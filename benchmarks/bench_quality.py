"""Quality on clicks with a known truth: DLRM against that truth and a logistic regression.

    python -m benchmarks.make_criteo --rows 4000000 --days 2
    millstream etl --config conf/criteo.yaml --dates 2026-01-01..2026-01-02
    python -m benchmarks.make_criteo --truth --days 2 --out data/truth
    python -m benchmarks.bench_quality --truth data/truth

The logistic regression sees the same ids and numbers: a weight for each, no products.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from benchmarks.common import machine, print_figures, print_table
from benchmarks.train_sources import job_of
from jobs.batch.batch import Batch
from jobs.models.build import build_model, predict
from jobs.models.layers import Embeddings, InputLayer
from jobs.models.spec import ModelSpec
from jobs.settings.load import load_settings
from jobs.train.exchange.exchange import Alone
from jobs.train.launch.rank_job import TrainJob
from jobs.train.read.stream import Stream
from jobs.train.step.loop import fit
from jobs.train.step.rowledger import RowCount
from jobs.train.step.step import Step
from jobs.train.watch.progress import Console

LOGISTIC = "benchmarks.bench_quality:LogisticRegression"


class LogisticRegression(nn.Module):
    """A weight for each id and each number."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.inputs = InputLayer(spec)
        self.numbers = nn.Linear(self.inputs.num_outputs, 1)
        self.ids = Embeddings(spec.table_rows, [1] * len(spec.table_rows), std=0.0)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B]."""
        numbers: Tensor = self.numbers(self.inputs(batch.dense)).squeeze(1)
        ids: Tensor = self.ids(batch.sparse)
        return numbers + ids.sum(dim=1)


def auc(label: Any, score: Any) -> float:
    """Area under the ROC curve; ties count half."""
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]
    clicks = int((label > 0.5).sum())
    wins = ranks[label > 0.5].sum() - clicks * (clicks + 1) / 2
    return float(wins / (clicks * (len(label) - clicks)))


def trained(job: TrainJob, model_name: str) -> tuple[float, float]:
    """Test AUC after training, and the seconds that training took."""
    settings = job.settings.train
    torch.manual_seed(settings.seed)
    model = build_model(model_name, job.spec)
    step = Step(model, settings, Alone())
    written = RowCount.of_shards(job.examples.shards("train", job.first_ds, job.last_ds))
    started = time.monotonic()
    stream = job.stream("train", 0, 1)
    fit(step, stream, None, settings, written, Console(False))
    seconds = time.monotonic() - started
    test = Stream.from_settings(
        job.examples, job.dataset, job.settings.stream, split="test", batch_rows=8192
    )
    parts = [
        (batch.label[batch.is_row].numpy(), predict(model, batch)[batch.is_row].numpy())
        for batch in test.epoch(0)
    ]
    labels, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    return auc(labels, scores), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="conf/criteo.yaml")
    parser.add_argument("--truth", type=Path, required=True, help="what make_criteo.py wrote")
    parser.add_argument("--models", nargs="+", default=["dlrm", LOGISTIC])
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    asked = parser.parse_args()
    settings = load_settings(asked.config, asked.overrides)
    job = job_of(settings, Path(tempfile.mkdtemp()))
    torch.set_num_threads(settings.train.threads_per_rank)

    table = pq.read_table(asked.truth, columns=["split", "label", "probability"])
    rows = table.to_pandas()
    test = rows[rows["split"] == "test"]
    truth = auc(test["label"].to_numpy(), test["probability"].to_numpy())
    print(machine("torch", "petastorm"))
    print(f"{len(rows):,} rows, {len(test):,} in split test; {settings.train}\n")
    lines, figures = [["truth", f"{truth:.4f}", "", ""]], {"truth_auc": truth}
    for name in asked.models:
        found, seconds = trained(job, name)
        title = name.rsplit(":", 1)[-1]
        figures |= {f"{title}_auc": found, f"{title}_below_truth": truth - found}
        lines.append([title, f"{found:.4f}", f"{truth - found:.4f}", f"{seconds:.0f}"])
    print_table(["model", "test AUC", "below the truth", "training, s"], lines)
    print_figures(figures)


if __name__ == "__main__":
    main()
