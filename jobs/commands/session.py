"""What commands share when they run: the Spark session, and a run that is observed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from jobs.observe.run import Run
    from jobs.registry.registry import Registry
    from jobs.settings.settings import Settings


# What steps in Python workers import: of the ETL, and those that score with a model.
ETL_STEPS = ("jobs.etl.job",)
MODEL_STEPS = ("jobs.evaluate.predict.scorer", "jobs.models.build")


def chosen(date: str | None, dates: Sequence[str] | None) -> list[str]:
    """The dates of `--date` or `--dates`; empty where neither is given."""
    return [date] if date else list(dates or ())


def spark_of(settings: Settings, stage: str) -> SparkSession:
    """A session that is started when it is first used."""
    from jobs.base.spark import session_on_use

    path = _properties(settings)
    return session_on_use(f"millstream {stage}", path, *ETL_STEPS, *MODEL_STEPS)


def spark_ahead(settings: Settings, stage: str, *of_steps: str) -> SparkSession:
    """A session that starts beside what a command does before it needs one."""
    from jobs.base.spark import session_ahead
    from jobs.etl.parcels import small_exchange

    path = _properties(settings)
    return session_ahead(f"millstream {stage}", path, *of_steps, first=small_exchange)


def _properties(settings: Settings) -> str | None:
    file = settings.spark.properties_file
    return settings.path(file) if file else None


@contextmanager
def new_run(settings: Settings, stage: str, dates: Sequence[str] = ()) -> Iterator[Run]:
    """A new run of a stage, observed."""
    from jobs.etl.job import lake_of
    from jobs.lake.ledger import new_run_id
    from jobs.observe.run import observed

    with observed(settings, lake_of(settings), stage, new_run_id(stage), dates) as run:
        yield run


def registry_of(settings: Settings) -> Registry:
    from jobs.etl.job import lake_of
    from jobs.registry.registry import Registry

    return Registry(settings, lake_of(settings))
