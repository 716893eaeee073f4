"""The three spark-submit files, driven as a user would, with two real Horovod ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.lake.ledger import read_ledger
from tests.base.test_quiet import OF_JAVA, foreign
from tests.builders.lakes import example_rows, lake_of
from tests.builders.visits import Raw, rows_of

ROOT = Path(__file__).parents[2]
SPARK_SUBMIT = Path(sys.executable).with_name("spark-submit")


def submit(file: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    conf = ROOT / "conf" / "spark" / "local.conf"
    command = [str(SPARK_SUBMIT), "--master", "local[2]", "--driver-memory", "2g"]
    return subprocess.run(
        [*command, "--properties-file", str(conf), str(ROOT / file), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Raw:
    lines = [*rows_of("2024-01-01", 400), *rows_of("2024-01-02", 50)]
    unlabelled = [line.rsplit(",", 1)[0] + ",NA" for line in lines[-5:]]
    return Raw(tmp_path_factory.mktemp("submitted")).add([*lines[:-5], *unlabelled]).write()


def test_etl_train_and_score_by_spark_submit(raw: Raw) -> None:
    config = ("--config", str(raw.config))
    etl = submit("jobs/etl/job.py", *config, "--date", "2024-01-01")
    assert etl.returncode == 0, etl.stderr
    assert etl.stdout.splitlines()[-1].startswith("etl: 400 rows = train ")
    assert len(example_rows(raw)) == 400

    train = submit("jobs/train/job.py", *config, "--workers", "2")
    assert train.returncode == 0, train.stderr
    assert "train: model version 1" in train.stdout.splitlines()[-1]

    score = submit("jobs/evaluate/score.py", *config, "--date", "2024-01-02", "--model", "latest")
    assert score.returncode == 0, score.stderr
    predictions = lake_of(raw).table("predictions").read_arrow().to_pandas()
    assert sorted(predictions["visit"]) == [240102000 + i for i in range(50)]
    assert predictions["score"].between(0, 1).all()
    assert set(predictions["model_version"]) == {"1"}
    # spark-submit gives what a Python job says on standard error out on standard output.
    for ended in (etl, train, score):
        assert ended.stderr.splitlines() == [OF_JAVA]
        *lines, _ = ended.stdout.splitlines()
        assert lines
        assert not foreign("\n".join(lines))
    (row,) = read_ledger(lake_of(raw), stage="score")
    assert row["counts"]["raw"] == row["counts"]["predicted"] == 50


def test_a_refusal_has_its_exit_code_and_no_stack_trace(raw: Raw) -> None:
    refused = submit("jobs/etl/job.py", "--config", str(raw.config), "--date", "2031-01-01")
    assert refused.returncode == 3
    # spark-submit gives what a Python job says on standard error out on standard output.
    said = refused.stdout + refused.stderr
    assert "no rows for 2031-01-01" in said
    assert "Traceback" not in said
