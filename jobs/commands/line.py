"""The steps of the line, in their order, and the nights that run them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from jobs.base.errors import ConfigError
from jobs.commands.options import Alternative, Date, command, dates_options, model_option
from jobs.commands.session import (
    ETL_STEPS,
    MODEL_STEPS,
    chosen,
    new_run,
    spark_ahead,
    spark_of,
)
from jobs.nightly.names import STEPS

if TYPE_CHECKING:
    from jobs.settings.settings import Settings

# A job is imported by its command: torch, Spark and MLflow take seconds that others need not wait.


_until_option = click.option(
    "--until", type=Date(), metavar="DATE", help="Newest date to train on."
)


@command("validate and encode the raw files of some dates")
@dates_options("Date to process; if it was processed before, that is replaced")
@click.option(
    "--rebuild",
    is_flag=True,
    help="Start over (a new generation): only these dates remain, with a fresh vocabulary; needed "
    "after a change of the declaration.",
)
def etl(settings: Settings, date: str | None, dates: list[str] | None, rebuild: bool) -> str:
    return _etl(settings, chosen(date, dates), rebuild)


@command("process all dates again, with a fresh vocabulary")
def refit(settings: Settings) -> str:
    from jobs.etl.generation import held_dates
    from jobs.etl.job import lake_of

    return _etl(settings, held_dates(lake_of(settings)), rebuild=True)


def _etl(settings: Settings, dates: Sequence[str], rebuild: bool) -> str:
    spark = spark_ahead(settings, "etl", *ETL_STEPS)
    from jobs.etl import job
    from jobs.etl.judge.counts import summary
    from jobs.observe import facts

    with new_run(settings, "etl", dates) as run:
        result = job.run(settings, spark, run_id=run.id, dates=dates, rebuild=rebuild)
        run.done(**facts.of_etl(result))
    return (
        f"etl: {summary(result.counts.values())}; written to {result.url} "
        f"version {result.version} in {result.seconds:.0f} s"
    )


@command("train a model on the examples and register it")
@click.option("--workers", type=int, metavar="N", help="Horovod ranks (default: train.workers).")
@click.option(
    "--resume",
    default="auto",
    metavar="auto|never|RUN",
    help="Continue an unfinished run that fits settings and data (auto, the default), none, or the "
    "run of this name.",
)
@_until_option
def train(settings: Settings, workers: int | None, resume: str, until: str | None) -> str:
    from jobs.observe import facts
    from jobs.train import job

    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}", "at least 1")
    with new_run(settings, "train") as run:
        result = job.run(
            settings,
            spark_of(settings, "train"),
            run_id=run.id,
            workers=workers,
            last_ds=until,
            resume=resume,
        )
        run.done(**facts.of_train(result))
    return f"train: {result.summary()}"


@command("search for better settings of training, and register the winner")
@click.option("--study", metavar="NAME", help="Begin or continue this one (default: newest date).")
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    metavar="P",
    help="Trials at a time (default: tune.parallel).",
)
@_until_option
def tune(settings: Settings, study: str | None, parallel: int | None, until: str | None) -> str:
    from jobs.evaluate.job import compare
    from jobs.observe import facts

    _refuse_no_search(study)
    from jobs.tune import job
    from jobs.tune.report import write_report

    with new_run(settings, "tune") as run:
        spark = spark_of(settings, "tune")
        result = job.run(
            settings,
            spark,
            run_id=run.id,
            name=study,
            parallel=parallel,
            last_ds=until,
        )
        compared = compare(settings, spark, run_id=run.id, challenger=result.version)
        run.done(**facts.of_tune(result))
    page = write_report(settings, result.study)
    return f"tune: {result.summary()}; its page is {page}\n  {compared.summary()}"


@command("write the page of a search: its trials, what mattered, what failed")
@click.option("--study", metavar="NAME", required=True, help="Which one; it may be running.")
def study(settings: Settings, study: str) -> str:
    _refuse_no_search(study)
    from jobs.tune.report import write_report

    return f"study: {write_report(settings, study)}"


def _refuse_no_search(study: str | None) -> None:
    """Raises ConfigError where the search's packages are missing, or a study cannot be so named."""
    if find_spec("optuna") is None or find_spec("cmaes") is None:
        raise ConfigError(
            "the search needs a package that is missing", remedy="pip install 'millstream[tune]'"
        )
    if study is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", study):
        raise ConfigError(f"--study {study!r}", "letters, digits, `_`, `.` and `-`, at most 64")


@command("measure a model on held-out rows")
@model_option("latest")
def evaluate(settings: Settings, model: str) -> str:
    spark = spark_ahead(settings, "evaluate", *MODEL_STEPS)
    from jobs.evaluate import job
    from jobs.observe import facts

    with new_run(settings, "evaluate") as run:
        result = job.run(settings, spark, run_id=run.id, model=model)
        run.done(**facts.of_evaluate(result))
    return f"evaluate: {result.summary()}"


@command("predict for the raw files of some dates")
@dates_options("Date to score")
@model_option("champion")
def score(settings: Settings, date: str | None, dates: list[str] | None, model: str) -> str:
    spark = spark_ahead(settings, "score", *MODEL_STEPS)
    from jobs.evaluate import score
    from jobs.observe import facts

    wanted = chosen(date, dates)
    with new_run(settings, "score", wanted) as run:
        result = score.run(settings, spark, run_id=run.id, dates=wanted, model=model)
        run.done(**facts.of_score(result))
    return f"score: {result.summary()}"


@command("run etl, train, evaluate, gate, score and report for a date; called again, it continues")
@dates_options("Date of the night")
@click.option(
    "--from",
    "start",
    cls=Alternative,
    others=["force"],
    type=click.Choice(STEPS),
    help="Repeat this step and those after it; not with --force.",
)
@click.option("--force", is_flag=True, help="Repeat all steps, or that of --only.")
@click.option("--only", type=click.Choice(STEPS), help="Run this step alone.")
def nightly(
    settings: Settings,
    date: str | None,
    dates: list[str] | None,
    start: str | None,
    force: bool,
    only: str | None,
) -> str:
    from jobs.nightly import job

    if only and (dates or start):
        raise ConfigError("--only with --dates or --from", "--only with --date alone, or --force")
    wanted = chosen(date, dates)
    result = job.run(
        settings,
        partial(spark_ahead, settings, "nightly", *ETL_STEPS, *MODEL_STEPS),
        ds=wanted[-1],
        first_ds=wanted[0] if dates else None,
        start=start,
        only=only,
        force=force,
    )
    return result.summary()


@command("show what the last nights and searches did")
@click.option(
    "--nights",
    type=int,
    default=14,
    metavar="N",
    help="How many nights, and searches that ended (default: 14).",
)
@click.option("--json", "as_json", is_flag=True, help="Print all that is recorded, as JSON.")
def status(settings: Settings, nights: int, as_json: bool) -> str:
    from jobs.etl.job import lake_of
    from jobs.nightly.status import status

    if nights < 1:
        raise ConfigError(f"--nights {nights}", "at least 1")
    return status(lake_of(settings), nights, as_json)
