"""Writes click logs in Criteo's public format, with clicks from a known model.

    python -m benchmarks.make_criteo --rows 1000000 --days 2 --out data/raw/criteo

See `criteo_model.py` for the model.

    python -m benchmarks.make_criteo --truth --days 2 --config conf/criteo.yaml --out truth

prints the AUC of the true probabilities on each split of the ETL, and writes them to `--out`
(`ds`, `row_id`, `split`, `label`, `probability`), so that any model can be judged against them.
The rows, their ids and their splits come from the ETL's own code.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from benchmarks.criteo_model import (
    CARDINALITIES,
    LOG_MEANS,
    SHARES,
    ClickModel,
    Floats,
    auc,
    draw,
    ranks_of,
    texts_of,
)

REPEATED_LINES = 1e-4
CHUNK_ROWS = 200_000


@dataclass(frozen=True)
class Chunk:
    table: pa.Table
    probability: Floats
    shares: dict[str, float]

    @property
    def label(self) -> npt.NDArray[np.int8]:
        return np.asarray(self.table["label"])


def made_chunk(model: ClickModel, rows: int, seed: tuple[int, ...]) -> Chunk:
    """Rows of one chunk; the same for the same seed, whatever else is made."""
    rng = np.random.default_rng(seed)
    drawn = draw(rows, rng)
    logs = drawn.log_integers()
    probability = model.probability(drawn.ranks, logs)
    label = (rng.random(rows) < probability).astype(np.int8)
    columns = {"label": pa.array(label)}
    for i in range(len(LOG_MEANS)):
        columns[f"I{i + 1}"] = pa.array(drawn.integers[i], mask=drawn.missing[i])
    for i in range(len(CARDINALITIES)):
        columns[f"C{i + 1}"] = texts_of(drawn.ranks[i], i)
    variance = {name: float(part.var()) for name, part in model.parts(drawn.ranks, logs).items()}
    table = pa.table(columns)
    source = np.arange(rows)
    repeated = np.flatnonzero(rng.random(rows) < REPEATED_LINES)
    if len(repeated):
        source[repeated] = np.maximum(repeated - 1, 0)
        table, probability = table.take(source), probability[source]
    return Chunk(table, probability, variance)


def write_days(out: Path, rows: int, days: list[str], seed: int) -> None:
    """Writes `rows` rows in all, evenly over the days, and prints what the truth reaches."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    model = ClickModel(seed)
    chunks: list[Chunk] = []
    for number, ds in enumerate(days):
        of_day = rows * (number + 1) // len(days) - rows * number // len(days)
        chunks += _write_day(out / f"day_{ds}", model, of_day, (seed, 3, number))
    labels = np.concatenate([chunk.label for chunk in chunks])
    truth = np.concatenate([chunk.probability for chunk in chunks])
    variance = {name: np.mean([c.shares[name] for c in chunks]) for name in SHARES}
    seconds = time.monotonic() - started
    print(
        f"{rows:,} rows, {len(days)} days in {out}: {seconds:.1f} s, {rows / seconds:,.0f} rows/s"
    )
    shares = ", ".join(f"{n} {v / sum(variance.values()):.0%}" for n, v in variance.items())
    print(f"variance of the log-odds: {shares}")
    print(f"clicks {labels.mean():.4f}, AUC of the truth on all rows {auc(labels, truth):.4f}")


def _write_day(path: Path, model: ClickModel, rows: int, seed: tuple[int, ...]) -> Iterator[Chunk]:
    sizes = [min(CHUNK_ROWS, rows - first) for first in range(0, rows, CHUNK_ROWS)]
    format_ = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with ThreadPoolExecutor(2) as threads, path.open("wb") as file:
        for first in range(0, len(sizes), 2):
            made = [
                threads.submit(made_chunk, model, sizes[n], (*seed, n))
                for n in range(first, min(first + 2, len(sizes)))
            ]
            for pending in made:
                chunk = pending.result()
                csv.write_csv(chunk.table, file, format_)
                yield Chunk(chunk.table.select(["label"]), chunk.probability, chunk.shares)


def write_truth(config: Path, dates: list[str], seed: int, out: Path) -> None:
    """The truth of the rows as the ETL reads them, by the ETL's own ids and splits."""
    from pyspark.sql import functions as F

    from jobs.base.spark import session
    from jobs.etl.job import source_paths
    from jobs.etl.split import split_of
    from jobs.etl.validate import checked_rows
    from jobs.settings.load import load_settings

    settings = load_settings(config, [])
    dataset = settings.dataset()
    spark = session("truth", settings.path(settings.spark.properties_file or "") or None)
    rows = checked_rows(spark, dataset, source_paths(settings, dataset), dates, with_label=True)
    rows = rows.where(F.size("reasons") == 0)
    kept = rows.withColumn("split", split_of(dataset, settings.etl.split))
    seen = kept.select(*_TRUTH_KEPT, *_LOGS, *_CODES).mapInArrow(_TruthOf(seed), _TRUTH_SCHEMA)
    seen.write.mode("overwrite").parquet(str(out))
    truth = pq.read_table(out, columns=["split", "label", "probability"])
    for split in ("train", "val", "test"):
        part = truth.filter(pc.equal(truth["split"], split))
        found = auc(part["label"].to_numpy(), part["probability"].to_numpy())
        print(f"AUC of the truth on {split} ({part.num_rows:,} rows): {found:.4f}")


_TRUTH_KEPT = ("ds", "row_id", "split")
_LOGS = ("clicked", *(f"I{i + 1}_log" for i in range(len(LOG_MEANS))))
_CODES = tuple(f"C{i + 1}_id" for i in range(len(CARDINALITIES)))
_TRUTH_SCHEMA = "ds string, row_id long, split string, label float, probability float"


class _TruthOf:
    """Batches of checked rows to their true probabilities."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        model = ClickModel(self._seed)
        for batch in batches:
            table = pa.Table.from_batches([batch])
            ranks = np.stack([ranks_of(table[name], i) for i, name in enumerate(_CODES)])
            logs = np.stack([table[name].to_numpy() for name in _LOGS[1:]]).astype(np.float32)
            label = table["clicked"].combine_chunks()
            columns = [*(table[n].combine_chunks() for n in _TRUTH_KEPT), label]
            columns.append(pa.array(model.probability(ranks, logs)))
            names = [*_TRUTH_KEPT, "label", "probability"]
            yield pa.RecordBatch.from_arrays(columns, names=names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of all days together")
    parser.add_argument("--days", type=int, default=1)
    parser.add_argument("--first-day", default="2026-01-01", help="YYYY-MM-DD")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("data/raw/criteo"))
    parser.add_argument("--truth", action="store_true", help="of rows written before; see above")
    parser.add_argument("--config", type=Path, default=Path("conf/criteo.yaml"))
    asked = parser.parse_args()
    first = date.fromisoformat(asked.first_day)
    days = [(first + timedelta(days=i)).isoformat() for i in range(asked.days)]
    if asked.truth:
        write_truth(asked.config, days, asked.seed, asked.out)
    else:
        write_days(asked.out, asked.rows, days, asked.seed)


if __name__ == "__main__":
    main()
