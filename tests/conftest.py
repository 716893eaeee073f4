"""What all tests share: one Spark session a run, and lakes in temporary folders."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from pyspark.sql import SparkSession

if TYPE_CHECKING:
    from tests.builders.google import Google
    from tests.builders.hdfs import Hdfs
    from tests.builders.s3 import S3

# Before the JVM starts: Spark and Horovod talk over loopback only.
os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
# How long an example takes says nothing on a machine that does other things too.
settings.register_profile("millstream", deadline=None)
settings.load_profile("millstream")


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    from jobs.base.spark import session

    properties = tmp_path_factory.mktemp("spark") / "tests.conf"
    properties.write_text(
        "spark.master local[2]\n"
        "spark.driver.memory 3g\n"
        "spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m\n"
        "spark.driver.host localhost\n"
        "spark.driver.bindAddress 127.0.0.1\n"
        "spark.ui.enabled false\n"
        "spark.ui.showConsoleProgress false\n"
        "spark.sql.shuffle.partitions 2\n"
    )
    started = session("millstream-tests", str(properties))
    yield started
    started.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    from tests.builders.s3 import serving

    with serving() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """S3 on loopback, for this test's environment only; the bucket is shared by all tests."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.make_bucket()
    return s3_server


@pytest.fixture(scope="session")
def hdfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdfs]:
    from tests.builders.hdfs import serving

    with serving(tmp_path_factory.mktemp("hdfs"), data_nodes=2) as server:
        yield server


@pytest.fixture
def hdfs(hdfs_server: Hdfs, monkeypatch: pytest.MonkeyPatch) -> Hdfs:
    """HDFS on loopback, each block on both of two data nodes; shared by all tests.

    It takes a while to start: only slow tests ask for it.
    """
    for name, value in hdfs_server.environment.items():
        monkeypatch.setenv(name, value)
    return hdfs_server


@pytest.fixture(scope="session")
def google_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Google]:
    from tests.builders.google import serving

    with serving(tmp_path_factory.mktemp("google")) as server:
        yield server


@pytest.fixture
def google(google_server: Google, monkeypatch: pytest.MonkeyPatch) -> Google:
    """Google's store on loopback; the bucket is shared by all tests."""
    for name, value in google_server.environment.items():
        monkeypatch.setenv(name, value)
    google_server.make_bucket()
    return google_server


@pytest.fixture
def models_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ranks that are threads, each builds its model alone: they share torch's generator."""
    import torch

    from jobs.settings.train import TrainSettings
    from jobs.train import rank

    alone, build_model, seed = threading.RLock(), rank.build_model, torch.manual_seed

    def built(*given: Any, **more: Any) -> Any:
        with alone:
            seed(TrainSettings().seed)
            return build_model(*given, **more)

    def seeded(number: int) -> torch.Generator:
        # Another rank's seed must not come in the middle of a model.
        with alone:
            return seed(number)

    monkeypatch.setattr(torch, "manual_seed", seeded)
    monkeypatch.setattr(rank, "build_model", built)
