"""The main job on real data, as a newcomer sees it: `make demo`.

Eleven months of flights become shards and a trained, promoted model; December is scored.
"""

from __future__ import annotations

import datetime as dt
import sys
import time
from pathlib import Path

from jobs.base.errors import MillstreamError
from jobs.base.quiet import start_log
from jobs.base.spark import session
from jobs.commands.options import date_range
from jobs.etl import job as etl
from jobs.etl.judge.counts import summary
from jobs.evaluate import job as evaluate
from jobs.evaluate import score
from jobs.lake.ledger import new_run_id
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from jobs.train import job as train

CONFIG = Path(__file__).parents[1] / "conf" / "flights.yaml"


def days(first: str, last: str) -> list[str]:
    return date_range(dt.date.fromisoformat(first), dt.date.fromisoformat(last))


def main() -> int:
    started = time.monotonic()
    start_log()
    print("The demo takes about 3 minutes on 2 cores.", flush=True)
    settings = load_settings(CONFIG)
    properties = settings.spark.properties_file
    spark = session("millstream demo", settings.path(properties) if properties else None)

    history = days("2013-01-01", "2013-11-30")
    examples = etl.run(settings, spark, run_id=new_run_id("etl"), dates=history)
    trained = train.run(settings, spark, run_id=new_run_id("train"))
    compared = evaluate.compare(
        settings, spark, run_id=new_run_id("evaluate"), challenger=trained.version
    )
    for check in compared.verdict.checks:
        print(f"gate: {check}")
    if compared.verdict.passed:
        Registry(settings, etl.lake_of(settings)).promote(trained.version, new_run_id("promote"))
    december = days("2013-12-01", "2013-12-31")
    scored = score.run(settings, spark, run_id=new_run_id("score"), dates=december)

    metrics = compared.challenger.metrics.values
    print(f"""
raw          {settings.path(settings.etl.sources["flights"])}
examples     {examples.url} version {examples.version}
             {summary(examples.counts.values())}
model        {trained.summary()}
evaluation   test AUC {metrics["auc"]:.4f}, log loss {metrics["log_loss"]:.4f}, \
base rate {metrics["base_rate"]:.4f}
report       {compared.challenger.report_url}
predictions  {scored.url} version {scored.version}
             {scored.summary()}
time         {time.monotonic() - started:.0f} s""")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MillstreamError as error:
        print(f"millstream: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
