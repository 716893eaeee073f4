"""The search of a night: it goes on with the study that an earlier night was cut in."""

from __future__ import annotations

import logging
from functools import partial

from pyspark.sql import SparkSession

from jobs.base.code import digest_of
from jobs.lake.lake import Lake
from jobs.registry.version import as_tag
from jobs.settings.settings import Settings
from jobs.settings.train import RUN_SETTINGS
from jobs.tune import job
from jobs.tune.progress import open_studies
from jobs.tune.study import OtherStudy, settings_of
from jobs.tune.trials import Budget

log = logging.getLogger("millstream.tune")


def run(settings: Settings, spark: SparkSession, *, run_id: str, last_ds: str) -> job.TuneResult:
    """Goes on with a study of these settings, or begins one, within the night's budget.

    Raises:
        ConfigError, DataRefused, Locked: see `job.run`.
    """
    lake, nightly = Lake(settings.lake_url, settings.dataset().name), settings.nightly
    job.refuse_empty_space(settings)
    own = f"-{_digest(settings)}"
    begun = [name for name in open_studies(lake) if name.endswith(own)]
    run_study = partial(
        job.run,
        settings,
        spark,
        run_id=run_id,
        last_ds=last_ds,
        budget=Budget(nightly.tune_rows, nightly.tune_seconds),
    )
    new = f"nightly-{last_ds}{own}"
    try:
        return run_study(name=begun[-1] if begun else new)
    except OtherStudy as other:
        if new in begun:
            raise
        log.warning("%s; another is begun", other.found)
    return run_study(name=new)


def _digest(settings: Settings) -> str:
    """Of what a study goes on with only where it is the same; other settings begin another."""
    train = settings.train.model_dump(mode="json", exclude=set(RUN_SETTINGS))
    stream = settings.stream.model_dump(mode="json")
    tree = [settings_of(settings.tune), train, stream, settings.dataset().digest]
    return digest_of(as_tag(tree))
