"""Scoring: from raw rows to the commit, beside another checkout; and inference beside Spark's own.

    python -m benchmarks.bench_score [--rows 1000000] [--code CHECKOUT] [--work FOLDER]

Two declarations: rows in Criteo's format with DLRM at its defaults, and what each checkout's `init`
proposes for a table of flights. Each checkout makes examples of a first day, trains on a tenth of
them, and scores later days of other rows by its own commands: the clock of a command, process
start included, and the seconds that its ledger row says, from raw to the commit. Then, over the
examples of the click logs' first day and with this checkout's model: Millstream's
inference in Spark, Spark's `predict_batch_udf`, and the limit: the plain forward loop over tensors
in memory, in as many processes of one thread as the machine has cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from deltalake import DeltaTable
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import FloatType

from benchmarks.common import machine, print_figures, print_table
from benchmarks.etl_cases import REPOSITORY, Code
from benchmarks.make_criteo import write_days
from benchmarks.make_flights import write_table
from jobs.base.spark import session
from jobs.batch.batch import Batch
from jobs.batch.layout import batch_from_arrow
from jobs.evaluate.predict.predict import Predictor, predicted
from jobs.lake.lake import Lake
from jobs.models.artifact import load_model
from jobs.models.build import predict
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from schemas.dataset import ROW_ID

FIRST, LATER = "2026-01-01", ("2026-01-02", "2026-01-03", "2026-01-04")
TRAINED_SHARE = 0.1
REPEATS = 3
LIMIT_SHARE, UDF_FACTOR = 0.7, 2.0
OURS, OTHER = "this checkout", "the other checkout"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="to score")
    parser.add_argument("--repeats", type=int, default=1, help="of a score command, 3 at most")
    parser.add_argument("--code", type=Path, help="another checkout, whose commands run too")
    parser.add_argument("--work", type=Path, help="raw files, kept; a temporary folder when absent")
    parser.add_argument("--only", default="", choices=("", "clicks", "init"), help="one case")
    parser.add_argument("--no-inference", action="store_true", help="the commands alone")
    asked = parser.parse_args()
    # Workers are started before Spark and torch have threads of their own.
    multiprocessing.set_start_method("spawn")
    work = (asked.work or Path(tempfile.mkdtemp(prefix="bench-score-"))).resolve()
    try:
        _measured(asked, work)
    finally:
        if asked.work is None:
            shutil.rmtree(work)


def _measured(asked: argparse.Namespace, work: Path) -> None:
    codes = [Code.at(OURS, REPOSITORY)]
    if asked.code:
        codes.append(Code.at(OTHER, asked.code.resolve()))
    figures: dict[str, Any] = {}
    for case in (CLICK_LOGS, INIT_MADE):
        if asked.only in ("", case.name):
            raw = case.made(work, asked.rows)
            lines = {code.name: Line(case, code, raw, work) for code in codes}
            costs = _costs(lines, LATER[: asked.repeats])
            figures[case.name] = _print_commands(case, asked.rows, costs)
    inference = not asked.no_inference and CLICK_LOGS.name in figures
    if inference:
        settings = Line(CLICK_LOGS, codes[0], CLICK_LOGS.raw(work, asked.rows), work).settings()
        figures |= _print_inference(_inference(settings))
    print_figures(figures)
    if inference:
        _refuse_slow(figures)


def _costs(lines: Mapping[str, Line], days: Sequence[str]) -> dict[str, Cost]:
    costs: dict[str, list[Cost]] = {name: [] for name in lines}
    for line in lines.values():
        line.train()
    # Turn by turn, so that a slow minute of the machine is everybody's.
    for day in days:
        for name, line in lines.items():
            costs[name].append(line.score(day))
    return {name: _median_cost(found) for name, found in costs.items()}


@dataclass(frozen=True)
class Case:
    """A declaration, and raw files of a first day and of others.

    Attributes:
        file: of a day, where `{ds}` stands for it.
        write: days into a folder, each of so many rows.
        drafted: whether the declaration is `init`'s.
    """

    name: str
    title: str
    dataset: str
    file: str
    write: Callable[[Path, int, Sequence[str]], None]
    settings: tuple[str, ...]
    drafted: bool

    def raw(self, work: Path, rows: int) -> Path:
        return work / f"raw-{self.name}-{rows}"

    def made(self, work: Path, rows: int) -> Path:
        """A folder with the first day and a later one, which the days after it repeat."""
        raw = self.raw(work, rows)
        unfinished = raw.with_name(f"{raw.name}-unfinished")
        if not raw.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            self.write(unfinished, rows, [FIRST, LATER[0]])
            for day in LATER[1:]:
                made = self.file.replace("{ds}", LATER[0])
                (unfinished / self.file.replace("{ds}", day)).hardlink_to(unfinished / made)
            unfinished.rename(raw)
        return raw


def _write_clicks(folder: Path, rows: int, days: Sequence[str]) -> None:
    for number, day in enumerate(days):
        write_days(folder, rows, [day], seed=7 + number)


def _write_flights(folder: Path, rows: int, days: Sequence[str]) -> None:
    write_table(folder, rows * len(days), list(days), seed=7)


CLICK_LOGS = Case(
    "clicks",
    "Rows in Criteo's format, DLRM",
    "criteo",
    "day_{ds}",
    _write_clicks,
    ("train.model=dlrm",),
    drafted=False,
)
INIT_MADE = Case(
    "init", "Flights, all that `init` proposes", "flights", "{ds}.csv", _write_flights, (), True
)


@dataclass(frozen=True)
class Cost:
    """Seconds of a score command, and of its run from raw to the commit; its rows predicted."""

    command_s: float
    run_s: float
    predicted: int


@dataclass(frozen=True)
class Line:
    """A checkout's commands over the raw days, in a lake of its own."""

    case: Case
    code: Code
    raw: Path
    work: Path

    @property
    def folder(self) -> Path:
        return self.work / f"{self.case.name}-{self.code.name.replace(' ', '-')}"

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def overrides(self) -> list[str]:
        rest = round(1 - TRAINED_SHARE - 0.05, 2)
        return [
            f"lake={self.lake}",
            f"etl.sources.{self.case.dataset}={self.raw}/{self.case.file}",
            f"etl.split={{train: {TRAINED_SHARE}, val: 0.05, test: {rest}, seed: 7}}",
            "train.workers=1",
            *self.case.settings,
        ]

    @cached_property
    def config(self) -> str:
        if not self.case.drafted:
            return str(self.code.folder / "conf" / f"{self.case.dataset}.yaml")
        config = self.folder / f"{self.case.dataset}.yaml"
        if not config.exists():
            first = self.raw / self.case.file.replace("{ds}", FIRST)
            wishes = ["--label", "late", "--key", "flight", "--name", self.case.dataset]
            command = [*self.code.millstream, "init", "--from", str(first)]
            self.code.run(*command, "--to", str(self.folder), *wishes)
        return str(config)

    def settings(self) -> Settings:
        return load_settings(self.config, self.overrides)

    def train(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.run("etl", "--date", FIRST)
        self.run("train")

    def score(self, day: str) -> Cost:
        command_s = self.run("score", "--date", day, "--model", "latest")
        ledger = DeltaTable(str(self.lake / self.case.dataset / "ledger")).file_uris()
        ((run_s, predicted_rows),) = duckdb.execute(
            "SELECT seconds, counts['predicted'] FROM read_parquet($files) "
            "WHERE stage = 'score' AND ds = $day",
            {"files": ledger, "day": day},
        ).fetchall()
        return Cost(command_s, run_s, predicted_rows)

    def run(self, command: str, *options: str) -> float:
        overrides = [part for text in self.overrides for part in ("--set", text)]
        config = ["--config", self.config, *overrides]
        return self.code.run(*self.code.millstream, command, *config, *options).seconds


def _median_cost(costs: Sequence[Cost]) -> Cost:
    return sorted(costs, key=lambda cost: cost.run_s)[(len(costs) - 1) // 2]


def _print_commands(case: Case, rows: int, costs: Mapping[str, Cost]) -> dict[str, Any]:
    """Prints what the commands took; returns the figures."""
    if len({cost.predicted for cost in costs.values()}) > 1:
        sys.exit(f"not the same rows are predicted: {costs}")
    print(f"{case.title}: {rows:,}; {machine('torch', 'pyspark', 'pyarrow')}\n")
    print_table(
        ("`millstream score`", "command, s", "rows/s", "from raw to the commit, s", "rows/s"),
        [
            (
                name,
                f"{cost.command_s:.1f}",
                f"{rows / cost.command_s:,.0f}",
                f"{cost.run_s:.1f}",
                f"{rows / cost.run_s:,.0f}",
            )
            for name, cost in costs.items()
        ],
    )
    print(flush=True)
    figures: dict[str, Any] = {"rows": rows, "predicted": costs[OURS].predicted}
    names = {OURS: "", OTHER: "_of_other_checkout"}
    for name, cost in costs.items():
        figures[f"from_raw_rows_per_s{names[name]}"] = round(rows / cost.run_s)
        figures[f"command_rows_per_s{names[name]}"] = round(rows / cost.command_s)
    if OTHER in costs:
        figures["from_raw_to_other"] = round(costs[OTHER].run_s / costs[OURS].run_s, 2)
        figures["command_to_other"] = round(costs[OTHER].command_s / costs[OURS].command_s, 2)
    return figures


def _inference(settings: Settings) -> dict[str, float]:
    """Rows/s of each way, the median of the repeats."""
    properties = settings.spark.properties_file
    spark = session("bench score", settings.path(properties) if properties else None)
    dataset, lake = settings.dataset(), Lake(settings.lake_url, settings.dataset().name)
    model = Registry(settings, lake).resolve("latest")
    predictor = Predictor.of(model, dataset, settings.score.batch_rows)
    paths = DeltaTable(lake.table("examples").url).file_uris()
    rows = sum(pq.ParquetFile(path).metadata.num_rows for path in paths)
    examples = spark.read.parquet(*paths)
    cores = spark.sparkContext.defaultParallelism
    return {
        "limit": rows / _loop_seconds(paths, predictor, cores),
        "inference": rows / _median(lambda: _run(predicted(examples, predictor, [ROW_ID]))),
        "udf": rows / _median(lambda: _run(_by_udf(examples, predictor))),
    }


def _run(frame: DataFrame) -> None:
    frame.write.format("noop").mode("overwrite").save()


def _median(work: Callable[[], None]) -> float:
    """Seconds, after one run that does not count."""
    work()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _by_udf(encoded: DataFrame, predictor: Predictor) -> DataFrame:
    """Spark's own helper, as its documentation uses it, with the same model and batch size."""
    dataset, folder = predictor.dataset, predictor.folder_url

    def make() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        model = load_model(folder).model
        torch.set_num_threads(1)

        def forward(dense: np.ndarray, sparse: np.ndarray) -> np.ndarray:
            return predict(model, _batch(dense, sparse)).numpy()

        return forward

    dense = [f.name for f in dataset.numeric]
    sparse = [f.name for f in dataset.categorical]
    infer = predict_batch_udf(
        make,
        return_type=FloatType(),
        batch_size=predictor.batch_rows,
        input_tensor_shapes=[[len(dense)], [len(sparse)]],
    )
    missing = F.lit(float("nan")).cast("float")
    numbers = F.array(*(F.coalesce(F.col(name), missing) for name in dense))
    return encoded.select(ROW_ID, infer(numbers, F.array(*sparse)).alias("score"))


def _batch(dense: np.ndarray, sparse: np.ndarray) -> Batch:
    zeros = torch.zeros(len(dense), dtype=torch.int64)
    return Batch(
        dense=torch.from_numpy(np.ascontiguousarray(dense, np.float32)),
        sparse=torch.from_numpy(np.ascontiguousarray(sparse, np.int64)),
        label=zeros.float(),
        weight=zeros.float(),
        row_id=zeros,
        is_row=zeros.bool(),
        position=zeros,
        tensors={},
    )


def _loop_seconds(paths: Sequence[str], predictor: Predictor, cores: int) -> float:
    """Of the plain forward loop: each process its share of the rows, all at once."""
    barrier, seconds = multiprocessing.Barrier(cores), multiprocessing.Queue()
    shares = [
        multiprocessing.Process(
            target=_loop,
            args=(paths, predictor, number, cores, barrier, seconds),
        )
        for number in range(cores)
    ]
    for share in shares:
        share.start()
    found = [seconds.get(timeout=600) for _ in shares]
    for share in shares:
        share.join()
    return max(found)


def _loop(
    paths: Sequence[str], predictor: Predictor, number: int, cores: int, barrier: Any, seconds: Any
) -> None:
    torch.set_num_threads(1)
    table = pa.concat_tables(pq.read_table(path) for path in paths)
    share = -(-table.num_rows // cores)
    whole = batch_from_arrow(
        table.slice(number * share, share), predictor.dataset, with_label=False
    )
    rows = predictor.batch_rows
    batches = [whole[start : start + rows] for start in range(0, len(whole), rows)]
    model = load_model(predictor.folder_url).model

    def loop() -> None:
        barrier.wait(timeout=600)
        for batch in batches:
            predict(model, batch)

    seconds.put(_median(loop))


def _print_inference(rows_per_s: dict[str, float]) -> dict[str, Any]:
    limit, udf = rows_per_s["limit"], rows_per_s["udf"]
    names = {
        "limit": "forward loop over tensors in memory (the limit)",
        "inference": "Millstream's inference",
        "udf": "Spark's predict_batch_udf",
    }
    print_table(
        ("", "rows/s", "of the limit", "times predict_batch_udf"),
        [
            (
                text,
                f"{rows_per_s[key]:,.0f}",
                f"{rows_per_s[key] / limit:.2f}",
                f"{rows_per_s[key] / udf:.2f}",
            )
            for key, text in names.items()
        ],
    )
    print(flush=True)
    return {
        **{f"{key}_rows_per_s": round(value) for key, value in rows_per_s.items()},
        "inference_of_limit": round(rows_per_s["inference"] / limit, 3),
        "inference_to_udf": round(rows_per_s["inference"] / udf, 3),
    }


def _refuse_slow(figures: dict[str, Any]) -> None:
    if figures["inference_of_limit"] < LIMIT_SHARE or figures["inference_to_udf"] < UDF_FACTOR:
        sys.exit(
            f"missed: inference at least {LIMIT_SHARE} of the limit and {UDF_FACTOR} times "
            "predict_batch_udf"
        )


if __name__ == "__main__":
    main()
