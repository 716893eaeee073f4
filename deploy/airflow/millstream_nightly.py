"""The night as an Airflow 3 DAG: one task a step, on the night's own record.

Each task is `nightly --only STEP` by spark-submit. Whoever runs a night by hand with `millstream
nightly` and Airflow work on the same record, so a step is never done twice.

Airflow needs the Spark provider, `spark-submit` in its PATH, the connection `spark_default` and the
pools below. What the DAG reads from the environment:

    MILLSTREAM_CONFIG             the settings
    MILLSTREAM_HOME               a folder with what `make package` makes
    MILLSTREAM_PROPERTIES         Spark properties of all steps: conf/spark/*.conf
    MILLSTREAM_TRAIN_PROPERTIES   those of training, say with GPUs; the same by default
    MILLSTREAM_ARCHIVE            0 where the executors have the packages installed
    MILLSTREAM_START              first date
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pendulum
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.timetables.interval import CronDataIntervalTimetable

STEPS = ("etl", "train", "evaluate", "gate", "score", "report")
# One slot each: ranks that wait for each other must not share a cluster with another training.
POOLS = {"train": "millstream_training"}
POOL = "millstream"
# What another try would end with again: usage or settings, data refused, gate refused.
REFUSALS = {2: "the settings cannot be used", 3: "the data was refused", 4: "the gate refused"}

HOME = Path(os.environ.get("MILLSTREAM_HOME", "/opt/millstream"))
CONFIG = os.environ.get("MILLSTREAM_CONFIG", f"{HOME}/conf/flights.yaml")
PROPERTIES = os.environ.get("MILLSTREAM_PROPERTIES", f"{HOME}/conf/spark/standalone.conf")
TRAIN_PROPERTIES = os.environ.get("MILLSTREAM_TRAIN_PROPERTIES", PROPERTIES)
ARCHIVE = f"{HOME}/environment.tar.gz#environment"
START = pendulum.parse(os.environ.get("MILLSTREAM_START", "2024-01-01"), tz="UTC")

# The night of D runs after D has ended: its date is the interval's start, never "today". By hand:
# airflow dags trigger millstream_nightly --conf '{"date": "2024-01-31"}'
RUN_DATE = "{{ params.date or (data_interval_start | ds) }}"


class MillstreamOperator(SparkSubmitOperator):
    """Runs a step; what would end the same way again fails without another try."""

    def execute(self, context: Any) -> None:
        try:
            super().execute(context)
        except AirflowException as error:
            code = exit_code_of(str(error))
            if code in REFUSALS:
                text = f"exit code {code}: {REFUSALS[code]}; see the last lines of the log"
                raise AirflowFailException(text) from error
            raise


def exit_code_of(text: str) -> int | None:
    """The exit code of the driver, which the provider has in the text of its error only.

    In cluster mode spark-submit's own code is 1, and the driver's is what Kubernetes or YARN says.
    """
    told = (
        r"Kubernetes spark exit code is: (\d+)",
        r"User application exited with (?:status )?(\d+)",
        r"Error code is: (\d+)",
    )
    found = (re.search(pattern, text) for pattern in told)
    return next((int(match[1]) for match in found if match), None)


with DAG(
    dag_id="millstream_nightly",
    description="Raw files of a date become examples, a model and predictions",
    schedule=CronDataIntervalTimetable("0 3 * * *", timezone="UTC"),
    start_date=START,
    # Missed nights are run in order, one at a time: each builds on what those before it made.
    catchup=True,
    max_active_runs=1,
    params={"date": Param(None, type=["null", "string"], format="date")},
    default_args={
        # A crash, a lost cluster, or a lock that another run holds (exit code 5).
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "execution_timeout": timedelta(hours=6),
        # After a refusal the champion scores all the same, and `report` ends with the night's exit
        # code. A step that has nothing to do says so.
        "trigger_rule": "all_done",
    },
    tags=["millstream"],
) as dag:
    code = next(HOME.glob("millstream-*.zip"), None)
    before = None
    for step in STEPS:
        task = MillstreamOperator(
            task_id=step,
            name=f"millstream {step}",
            pool=POOLS.get(step, POOL),
            application=str(HOME / "jobs" / "nightly" / "job.py"),
            application_args=["--config", CONFIG, "--date", RUN_DATE, "--only", step],
            properties_file=TRAIN_PROPERTIES if step == "train" else PROPERTIES,
            py_files=str(code) if code else None,
            archives=ARCHIVE if os.environ.get("MILLSTREAM_ARCHIVE", "1") == "1" else None,
        )
        if before is not None:
            before >> task
        before = task
