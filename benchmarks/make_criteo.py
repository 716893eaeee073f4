"""Writes click logs in Criteo's public format, with clicks from a known model.

    python -m benchmarks.make_criteo --rows 1000000 --days 2 --out data/raw/criteo

See `criteo_model.py` for the model.

    python -m benchmarks.make_criteo --truth --days 2 --config conf/criteo.yaml --out truth

prints the AUC of the true probabilities on each split of the ETL, and writes them to `--out`
(`ds`, `row_id`, `split`, `label`, `probability`), so that any model can be judged against them.
The rows, their ids and their splits are those of the examples in the lake; a row is found again in
the raw files by its label, its numbers and which of its categories are missing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from benchmarks.criteo_model import (
    CARDINALITIES,
    LOG_MEANS,
    NONE,
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


def made_chunk(model: ClickModel, rows: int, seed: tuple[int, ...], strange: float = 0) -> Chunk:
    """Rows of one chunk; the same for the same seed, whatever else is made.

    Args:
        strange: share of rows with an integer that is none.
    """
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
    if strange:
        is_strange = pa.array(np.random.default_rng((*seed, 1)).random(rows) < strange)
        texts = pc.if_else(is_strange, "none", table["I5"].cast(pa.string()))
        table = table.set_column(table.column_names.index("I5"), "I5", texts)
    return Chunk(table, probability, variance)


def write_days(out: Path, rows: int, days: list[str], seed: int, strange: float = 0) -> None:
    """Writes `rows` rows in all, evenly over the days, and prints what the truth reaches."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    model = ClickModel(seed)
    chunks: list[Chunk] = []
    for number, ds in enumerate(days):
        of_day = rows * (number + 1) // len(days) - rows * number // len(days)
        chunks += _write_day(out / f"day_{ds}", model, of_day, (seed, 3, number), strange)
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


def _write_day(
    path: Path, model: ClickModel, rows: int, seed: tuple[int, ...], strange: float
) -> Iterator[Chunk]:
    sizes = [min(CHUNK_ROWS, rows - first) for first in range(0, rows, CHUNK_ROWS)]
    format_ = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with ThreadPoolExecutor(2) as threads, path.open("wb") as file:
        for first in range(0, len(sizes), 2):
            made = [
                threads.submit(made_chunk, model, sizes[n], (*seed, n), strange)
                for n in range(first, min(first + 2, len(sizes)))
            ]
            for pending in made:
                chunk = pending.result()
                csv.write_csv(chunk.table, file, format_)
                yield Chunk(chunk.table.select(["label"]), chunk.probability, chunk.shares)


def write_truth(config: Path, days: list[str], seed: int, out: Path) -> None:
    """The truth of the examples of some days, found again in the raw files by their content."""
    from deltalake import DeltaTable

    from jobs.settings.load import load_settings

    settings = load_settings(config, [])
    name = settings.dataset().name
    raw = settings.path(settings.etl.sources[name])
    model = ClickModel(seed)
    with duckdb.connect() as connection:
        for ds in days:
            for chunk in _raw_truth(model, raw.replace("{ds}", ds), ds):
                connection.register("chunk", chunk)
                connection.execute("CREATE TABLE IF NOT EXISTS raw AS SELECT * FROM chunk LIMIT 0")
                connection.execute("INSERT INTO raw SELECT * FROM chunk")
        files = DeltaTable(f"{settings.lake_url}/{name}/examples").file_uris()
        examples = connection.read_parquet(files, hive_partitioning=True)
        connection.register("examples", examples.project("* REPLACE (CAST(ds AS VARCHAR) AS ds)"))
        _join_truth(connection, days)
        _show_truth(connection)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        columns = "ds, row_id, split, label, probability"
        connection.execute(f"COPY (SELECT {columns} FROM truth) TO '{out}/truth.parquet'")


_LOGS = tuple(f"I{i + 1}_log" for i in range(len(LOG_MEANS)))
_CODES = tuple(f"C{i + 1}_id" for i in range(len(CARDINALITIES)))
_NULL_ID = 1


def _raw_truth(model: ClickModel, pattern: str, ds: str) -> Iterator[pa.Table]:
    """Rows of a day's files: what an example shows of its line, and the true probability."""
    texts = dict.fromkeys(("label", *_LOGS, *_CODES), pa.string())
    read = csv.ReadOptions(column_names=list(texts), block_size=64 << 20)
    parse = csv.ParseOptions(delimiter="\t", quote_char=False)
    convert = csv.ConvertOptions(column_types=texts, null_values=[""], strings_can_be_null=True)
    for path in sorted(Path(pattern).parent.glob(Path(pattern).name)):
        for batch in csv.open_csv(path, read, parse, convert):
            table = pa.Table.from_batches([batch])
            whole = pc.match_substring_regex(table["I5_log"], "^[0-9-]+$")
            table = table.filter(pc.fill_null(whole, True))
            yield _shown(model, table, ds)


def _shown(model: ClickModel, table: pa.Table, ds: str) -> pa.Table:
    integers = np.stack([table[name].cast(pa.float64()).to_numpy() for name in _LOGS])
    logs = np.log1p(np.maximum(integers, 0)).astype(np.float32)
    ranks = np.stack([ranks_of(table[name], i) for i, name in enumerate(_CODES)])
    columns = {"ds": pa.repeat(ds, table.num_rows), "label": table["label"].cast(pa.float32())}
    columns |= {name: pa.array(logs[i], from_pandas=True) for i, name in enumerate(_LOGS)}
    columns |= {name: pa.array(ranks[i] == NONE) for i, name in enumerate(_CODES)}
    return pa.table({**columns, "probability": model.probability(ranks, logs)})


def _join_truth(connection: duckdb.DuckDBPyConnection, days: list[str]) -> None:
    """Makes the table `truth`. A few rows look alike: they get the mean of their probabilities."""
    of_raw = ", ".join(["ds", "label", *_LOGS, *_CODES])
    absent = ", ".join(f"{name} = {_NULL_ID}" for name in _CODES)
    of_example = ", ".join(["ds", "clicked", *_LOGS, absent])
    chosen = ", ".join(f"'{ds}'" for ds in days)
    connection.execute(
        f"CREATE TABLE truth AS WITH seen AS (SELECT hash({of_raw}) AS seen, "
        f"CAST(avg(probability) AS FLOAT) AS probability, "
        f"max(probability) > min(probability) AS is_mean FROM raw GROUP BY ALL) "
        f"SELECT ds, row_id, split, clicked AS label, probability, is_mean FROM "
        f"(SELECT ds, row_id, split, clicked, hash({of_example}) AS seen FROM examples "
        f"WHERE ds IN ({chosen})) LEFT JOIN seen USING (seen)"
    )


def _show_truth(connection: duckdb.DuckDBPyConnection) -> None:
    rows, lost, alike = connection.execute(
        "SELECT count(*), count(*) - count(probability), count(*) FILTER (is_mean) FROM truth"
    ).fetchall()[0]
    if lost or not rows:
        sys.exit(f"{lost:,} of {rows:,} examples are in no raw file: another seed or other days?")
    print(f"{alike:,} of {rows:,} rows look like another one")
    for split in ("train", "val", "test"):
        part = connection.execute(
            "SELECT label, probability FROM truth WHERE split = $split", {"split": split}
        ).fetchnumpy()
        found = auc(part["label"], part["probability"])
        print(f"AUC of the truth on {split} ({len(part['label']):,} rows): {found:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of all days together")
    parser.add_argument("--days", type=int, default=1)
    parser.add_argument("--first-day", default="2026-01-01", help="YYYY-MM-DD")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("data/raw/criteo"))
    parser.add_argument("--strange", type=float, default=0, help="share of lines to refuse")
    parser.add_argument("--truth", action="store_true", help="of rows written before; see above")
    parser.add_argument("--config", type=Path, default=Path("conf/criteo.yaml"))
    asked = parser.parse_args()
    first = date.fromisoformat(asked.first_day)
    days = [(first + timedelta(days=i)).isoformat() for i in range(asked.days)]
    if asked.truth:
        write_truth(asked.config, days, asked.seed, asked.out)
    else:
        write_days(asked.out, asked.rows, days, asked.seed, asked.strange)


if __name__ == "__main__":
    main()
