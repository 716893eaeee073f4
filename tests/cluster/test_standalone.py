"""The line on a real Spark cluster: master, workers and driver are processes of their own.

What runs is what `make package` makes, from a folder without the checkout: the drivers' Python is
the packed environment's too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.lake.ledger import read_ledger
from tests.builders.lakes import example_rows, lake_of
from tests.builders.standalone import SPARK_HOME, Cluster, clean_environment, standalone
from tests.builders.visits import Raw, rows_of

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Submitter:
    """Submits packed jobs to a cluster."""

    package: Path
    cluster: Cluster

    def __call__(self, file: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (code,) = self.package.glob("millstream-*.zip")
        driver = self.package / "driver" / "bin" / "python"
        options = {
            "--master": self.cluster.master,
            "--properties-file": str(self.package / "standalone.conf"),
            "--py-files": str(code),
            "--archives": f"{self.package}/environment.tar.gz#environment",
            "--driver-memory": "1g",
            "--executor-memory": "1g",
        }
        confs = {
            "spark.pyspark.driver.python": str(driver),
            "spark.executor.cores": "1",
            "spark.cores.max": "2",
            "spark.sql.shuffle.partitions": "2",
            "spark.driver.host": "127.0.0.1",
            # In runs of seconds the optimizing compiler only costs.
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
            "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1",
        }
        return subprocess.run(
            [
                str(SPARK_HOME / "bin" / "spark-submit"),
                *[word for pair in options.items() for word in pair],
                *[word for name, value in confs.items() for word in ("--conf", f"{name}={value}")],
                str(self.package / file),
                *arguments,
            ],
            cwd=self.package,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `make package` makes, its environment unpacked for the drivers, and no checkout."""
    folder = tmp_path_factory.mktemp("package")
    subprocess.run([sys.executable, str(ROOT / "tools" / "package.py"), str(folder)], check=True)
    with tarfile.open(folder / "environment.tar.gz") as archive:
        archive.extractall(folder / "driver", filter="tar")
    conf = ROOT / "conf" / "spark" / "standalone.conf"
    (folder / "standalone.conf").write_text(conf.read_text(encoding="utf-8"), encoding="utf-8")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with standalone(folder) as running:
        yield running
    # Every executor unpacked two gigabytes.
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def raw(package: Path) -> Raw:
    """Raw files, settings and a declaration of the user's own, all outside the checkout."""
    declaration = (ROOT / "tests" / "builders" / "visits.py").read_text(encoding="utf-8")
    lines = [*rows_of("2024-01-01", 400), *rows_of("2024-01-02", 50)]
    made = Raw(package / "raw", declaration="./visits.py:VISITS").add(lines).write()
    (made.folder / "visits.py").write_text(declaration, encoding="utf-8")
    return made


def test_etl_train_and_score_on_a_cluster(package: Path, cluster: Cluster, raw: Raw) -> None:
    submit = Submitter(package, cluster)
    config = ("--config", str(raw.config))

    etl = submit("jobs/etl/job.py", *config, "--date", "2024-01-01")
    assert etl.returncode == 0, etl.stderr
    assert etl.stdout.splitlines()[-1].startswith("etl: 400 rows = train ")
    assert len(example_rows(raw)) == 400

    train = submit("jobs/train/job.py", *config, "--workers", "2")
    assert train.returncode == 0, train.stdout + train.stderr
    assert "train: model version 1" in train.stdout.splitlines()[-1]
    _ranks_ran_on_executors_of_their_own(train.stdout + train.stderr, cluster)

    score = submit("jobs/evaluate/score.py", *config, "--date", "2024-01-02", "--model", "latest")
    assert score.returncode == 0, score.stdout + score.stderr
    predictions = lake_of(raw).table("predictions").read_arrow().to_pandas()
    assert sorted(predictions["visit"]) == [240102000 + i for i in range(50)]
    assert predictions["score"].between(0, 1).all()
    (row,) = read_ledger(lake_of(raw), stage="score")
    assert row["counts"]["raw"] == row["counts"]["predicted"] == 50


def _ranks_ran_on_executors_of_their_own(said: str, cluster: Cluster) -> None:
    """By what the ranks say of themselves."""
    found = re.findall(r"rank (\d): runs on \S+, pid (\d+), in (\S+), code from (\S+)", said)
    ranks, processes, folders, code = zip(*found, strict=True)
    assert sorted(ranks) == ["0", "1"]
    assert len(set(processes)) == 2
    places = {str(Path(folder).relative_to(cluster.folder)) for folder in folders}
    assert len(places) == 2 and places <= cluster.executors()
    for folder, place in zip(folders, code, strict=True):
        assert re.fullmatch(rf"{re.escape(folder)}/millstream-[\d.]+\.zip/jobs", place)
