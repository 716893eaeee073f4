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
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import machine, print_figures, print_table
from benchmarks.etl_cases import REPOSITORY, Code
from benchmarks.score_inference import inference_rows_per_s
from benchmarks.score_line import CLICK_LOGS, INIT_MADE, LATER, Case, Cost, Line

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
        figures |= _print_inference(inference_rows_per_s(settings))
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
