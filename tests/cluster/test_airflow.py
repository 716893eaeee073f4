"""The DAG of deploy/airflow by a real Airflow, which has an environment of its own.

It is made once, in the user's cache, by tools/world.sh.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from jobs.nightly.names import STEPS
from jobs.nightly.record import load
from tests.builders.lakes import lake_of
from tests.builders.visits import Raw, rows_of
from tests.builders.worlds import interpreter
from tools.package import copy_submitted, pack_code

ROOT = Path(__file__).parents[2]
DAG = ROOT / "deploy" / "airflow" / "millstream_nightly.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def airflow() -> Path:
    """Its interpreter."""
    return Path(interpreter("airflow"))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Raw:
    lines = rows_of("2024-01-01", 400)
    return Raw(tmp_path_factory.mktemp("airflow_raw")).add(lines).write()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, raw: Raw) -> dict[str, str]:
    """The environment of Airflow and of what it submits: the packed code, local Spark."""
    folder = tmp_path_factory.mktemp("airflow")
    pack_code(folder)
    copy_submitted(folder)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {
        **kept,
        # spark-submit lies beside the interpreter that the tests run with.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYSPARK_PYTHON": sys.executable,
        # Where the settings' declaration is.
        "PYTHONPATH": str(ROOT),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "AIRFLOW_HOME": str(folder / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAG.parent),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[2]"}),
        "MILLSTREAM_HOME": str(folder),
        "MILLSTREAM_CONFIG": str(raw.config),
        "MILLSTREAM_PROPERTIES": str(ROOT / "conf" / "spark" / "local.conf"),
        "MILLSTREAM_ARCHIVE": "0",
    }


def command(
    airflow: Path, home: Mapping[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(airflow.with_name("airflow")), *arguments],
        env=home,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )


def run_dag(airflow: Path, home: Mapping[str, str], *when: str) -> dict[str, str]:
    """Runs the DAG to its end; returns each task's state."""
    migrated = command(airflow, home, "db", "migrate")
    assert migrated.returncode == 0, migrated.stderr
    ran = command(airflow, home, "dags", "test", "millstream_nightly", *when)
    with sqlite3.connect(f"{home['AIRFLOW_HOME']}/airflow.db") as database:
        found = database.execute(
            "select task_id, state from task_instance where run_id = "
            "(select run_id from dag_run order by id desc limit 1)"
        ).fetchall()
    assert found, ran.stdout + ran.stderr
    return dict(found)


def test_the_operator_tells_refusals_from_failures(
    airflow: Path, home: Mapping[str, str], tmp_path: Path
) -> None:
    submit = tmp_path / "spark-submit"
    submit.write_text('#!/bin/sh\nexit "$SUBMIT_ENDS_WITH"\n', encoding="utf-8")
    submit.chmod(0o755)
    script = str(ROOT / "tests" / "builders" / "airflow_step.py")
    ran = subprocess.run(
        [str(airflow), script, str(DAG)],
        env={**home, "PATH": f"{tmp_path}:{home['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    refused, failed = "AirflowFailException", "AirflowException"
    assert said["ends"] == {
        "0": "done",
        "1": failed,
        "2": refused,
        "3": refused,
        "4": refused,
        "5": failed,
    }
    assert list(said["tasks"]) == list(STEPS)
    before: list[str] = []
    for step, task in said["tasks"].items():
        assert task["arguments"][-2:] == ["--only", step]
        assert task["after"] == before
        assert task["retries"] > 0 and task["bounded"]
        before = [step]


def test_a_night_by_airflow_is_the_night(airflow: Path, home: Mapping[str, str], raw: Raw) -> None:
    done = run_dag(airflow, home, "--conf", '{"date": "2024-01-01"}')
    assert done == dict.fromkeys(STEPS, "success")
    record = load(lake_of(raw), "2024-01-01")
    assert record.is_finished and record.exit_code == 0
    predictions = lake_of(raw).table("predictions").read_arrow()
    assert predictions.num_rows == 400


def test_after_a_refusal_the_other_steps_are_called_and_the_last_one_fails(
    airflow: Path, home: Mapping[str, str], tmp_path: Path
) -> None:
    """As the real steps end when the ETL refuses the data and there is a champion.

    A run that the schedule makes at three is of the day that has ended.
    """
    submit = tmp_path / "spark-submit"
    calls = tmp_path / "calls"
    says = f'echo "$@" >> {calls}'
    text = f'#!/bin/sh\n{says}\ncase "$*" in *"--only score") exit 0 ;; esac\nexit 3\n'
    submit.write_text(text, encoding="utf-8")
    submit.chmod(0o755)
    own = {"PATH": f"{tmp_path}:{home['PATH']}", "AIRFLOW_HOME": str(tmp_path / "home")}
    refused = run_dag(airflow, {**home, **own}, "2024-01-02T03:00:00")
    assert refused == {**dict.fromkeys(STEPS, "failed"), "score": "success"}
    called = calls.read_text(encoding="utf-8").splitlines()
    ends = [line.split(" --date ")[1] for line in called]
    assert ends == [f"2024-01-01 --only {step}" for step in STEPS]
