"""What each command does with its arguments; returns the last line that it prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError
from jobs.lake.ledger import new_run_id
from jobs.observe import facts
from jobs.observe.run import Run, observed
from jobs.settings.settings import Settings

if TYPE_CHECKING:
    from jobs.registry.registry import Registry


def _dates(arguments: argparse.Namespace) -> list[str]:
    return [arguments.date] if arguments.date else list(arguments.dates)


def _spark(settings: Settings, stage: str) -> SparkSession:
    from jobs.base.spark import session

    properties = settings.spark.properties_file
    return session(f"millstream {stage}", settings.path(properties) if properties else None)


@contextmanager
def _run(settings: Settings, stage: str, dates: Sequence[str] = ()) -> Iterator[Run]:
    """A new run of a stage, observed."""
    from jobs.etl.job import lake_of

    with observed(settings, lake_of(settings), stage, new_run_id(stage), dates) as run:
        yield run


def init(arguments: argparse.Namespace) -> str:
    from jobs.init.job import Wishes, run

    key = arguments.key
    wishes = Wishes(
        file=arguments.file,
        folder=arguments.to,
        label=arguments.label,
        key=None if key is None else tuple(part.strip() for part in key.split(",") if part.strip()),
        date=arguments.date,
        name=arguments.name,
    )
    return run(wishes, input if sys.stdin.isatty() else None)


# The jobs are imported by their commands: torch and MLflow take seconds that others need not wait.


def etl(arguments: argparse.Namespace, settings: Settings) -> str:
    return _etl(settings, _dates(arguments), arguments.rebuild)


def refit(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.etl.generation import held_dates
    from jobs.etl.job import lake_of

    return _etl(settings, held_dates(lake_of(settings)), rebuild=True)


def _etl(settings: Settings, dates: Sequence[str], rebuild: bool) -> str:
    from jobs.etl import job
    from jobs.etl.judge.counts import summary

    with _run(settings, "etl", dates) as run:
        spark = _spark(settings, "etl")
        result = job.run(settings, spark, run_id=run.id, dates=dates, rebuild=rebuild)
        run.done(**facts.of_etl(result))
    return (
        f"etl: {summary(result.counts.values())}; written to {result.url} "
        f"version {result.version} in {result.seconds:.0f} s"
    )


def train(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.train import job

    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers}", "at least 1")
    with _run(settings, "train") as run:
        result = job.run(
            settings,
            _spark(settings, "train"),
            run_id=run.id,
            workers=arguments.workers,
            last_ds=arguments.until,
            resume=arguments.resume,
        )
        run.done(**facts.of_train(result))
    return f"train: {result.summary()}"


def evaluate(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.evaluate import job

    with _run(settings, "evaluate") as run:
        spark = _spark(settings, "evaluate")
        result = job.run(settings, spark, run_id=run.id, model=arguments.model)
        run.done(**facts.of_evaluate(result))
    return f"evaluate: {result.summary()}"


def score(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.evaluate import score

    dates = _dates(arguments)
    with _run(settings, "score", dates) as run:
        spark = _spark(settings, "score")
        result = score.run(settings, spark, run_id=run.id, dates=dates, model=arguments.model)
        run.done(**facts.of_score(result))
    return f"score: {result.summary()}"


def nightly(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.nightly import job

    dates = _dates(arguments)
    if arguments.only and (arguments.dates or arguments.start):
        raise ConfigError("--only with --dates or --from", "--only with --date alone, or --force")
    result = job.run(
        settings,
        partial(_spark, settings, "nightly"),
        ds=dates[-1],
        first_ds=dates[0] if arguments.dates else None,
        start=arguments.start,
        only=arguments.only,
        force=arguments.force,
    )
    return result.summary()


def status(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.etl.job import lake_of
    from jobs.nightly.status import status

    if arguments.nights < 1:
        raise ConfigError(f"--nights {arguments.nights}", "at least 1")
    return status(lake_of(settings), arguments.nights, arguments.json)


def rollback(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.registry.listing import roll_back

    with _run(settings, "rollback") as run:
        registry = _registry(settings)
        before = registry.champion()
        text = roll_back(registry, run.id, arguments.to)
        if (now := registry.champion()) is not None:
            run.promoted(now.version, before.version if before else "")
    return text


def models(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.registry.listing import models_table

    return models_table(_registry(settings), settings.evaluate.split)


def export(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.evaluate.export.export import export_version

    registry = _registry(settings)
    version = registry.resolve(arguments.model)
    dataset = settings.dataset()
    export_version(registry.lake, version, dataset, arguments.format, arguments.to)
    return f"export: model version {version.version} as {arguments.format} in {arguments.to}"


def _registry(settings: Settings) -> Registry:
    from jobs.etl.job import lake_of
    from jobs.registry.registry import Registry

    return Registry(settings, lake_of(settings))


def compact(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.operations import compact

    dates = _dates(arguments) if arguments.date or arguments.dates else None
    result = compact.run(
        settings, _spark(settings, "compact"), run_id=new_run_id("compact"), dates=dates
    )
    return f"compact: {result.summary()}"


def erase(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.operations import erase
    from jobs.operations.keys import parse_keys

    keys = parse_keys(settings.dataset(), arguments.key, arguments.keys)
    spark = _spark(settings, "erase")
    return f"erase: {erase.run(settings, spark, run_id=new_run_id('erase'), keys=keys).summary()}"


def vacuum(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.operations import vacuum

    if arguments.older_than < 0:
        raise ConfigError(f"--older-than {arguments.older_than:g}", "hours, at least 0")
    result = vacuum.run(
        settings,
        run_id=new_run_id("vacuum"),
        older_than_hours=arguments.older_than,
        force=arguments.force,
        dry_run=arguments.dry_run,
    )
    return f"vacuum: {result.summary()}"


def files(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.etl.job import lake_of
    from jobs.lake.examples import Examples

    examples = Examples.open(lake_of(settings).table("examples").url, arguments.version)
    shards = examples.shards(arguments.split)
    return "\n".join(f"{examples.url}/{shard.path}" for shard in shards)
