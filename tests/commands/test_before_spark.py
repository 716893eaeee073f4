"""What a command can refuse without Spark it refuses without waiting for it, and leaves nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest
from pyspark.sql import SparkSession

from jobs.main import main
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from tests.builders.lakes import lake_of, run_etl
from tests.builders.models import register_model
from tests.builders.processes import DEADLINE_S, millstream
from tests.builders.visits import Raw, rows_of

NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(spec.num_dense)
"""
DS, LATER = "2024-01-01", "2024-01-02"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    """Examples of a date, and a model that is the champion."""
    raw = Raw(tmp_path_factory.mktemp("line")).add(rows_of(DS, 300)).write()
    run_etl(raw, spark, [DS])
    (raw.folder / "net.py").write_text(NET)
    settings = load_settings(raw.config)
    Registry(settings, lake_of(raw)).promote(register_model(settings, DS), "promote-1")
    return raw


@pytest.fixture
def no_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object) -> None:
        raise AssertionError("Spark was started")

    monkeypatch.setattr("jobs.base.spark.session", started)


LAND = "etl.sources={visits: 'none-{ds}.csv', shops: shops.csv}"
NO_SHOPS = "etl.sources={visits: visits.csv, shops: none.csv}"
CASES = [
    (3, "no raw file matches", ("etl", "--date", DS, "--set", LAND)),
    (3, "no raw file matches", ("etl", "--date", DS, "--set", NO_SHOPS)),
    (2, "etl.sources has", ("etl", "--date", DS, "--set", "etl.sources={visits: visits.csv}")),
    (2, "etl.limits", ("etl", "--date", DS, "--set", "etl.limits={below_mni: 0.1}")),
    (2, "no Spark properties file", ("etl", "--date", DS, "--set", "spark.properties_file=none")),
    (2, "train.batch_rows is 100", ("train", "--set", "train.batch_rows=100")),
    (3, "has no date up to", ("train", "--until", "2023-01-01")),
    (2, "train.model is 'mpl'", ("train", "--set", "train.model=mpl")),
    (2, "'./none.py:Net' cannot be found", ("train", "--set", "train.model=./none.py:Net")),
    (2, "has a BatchNorm1d", ("train", "--set", "train.model=./net.py:Net")),
    (2, "9 ranks (size), 8 streams", ("train", "--workers", "9")),
    (2, "stream.memory_mb", ("train", "--set", "stream.memory_mb=1")),
    (3, "no model '7'", ("train", "--set", "train.warm_start=7")),
    (3, "no model '7'", ("evaluate", "--model", "7")),
    (3, "has no rows in version", ("evaluate", "--set", "evaluate.split=all")),
    (2, "evaluate.slices", ("evaluate", "--set", "evaluate.slices=[{name: s, by: [none]}]")),
    (3, "no model '7'", ("score", "--date", DS, "--model", "7")),
    (3, "no raw file matches", ("score", "--date", DS, "--set", f"score.{LAND[4:]}")),
    (3, "no raw file matches", ("nightly", "--date", LATER, "--set", LAND)),
    (2, "--version -1", ("files", "--version", "-1")),
    (2, "--older-than nan", ("vacuum", "--older-than", "nan")),
    (2, "File name too long", ("models", "--set", f"lake={'x' * 300}")),
    (2, "no settings file", ("etl", "--date", DS, "--config", "none.yaml")),
]


@pytest.mark.parametrize(("code", "said", "arguments"), CASES)
@pytest.mark.usefixtures("no_spark")
def test_it_is_refused_without_spark(
    line: Raw,
    tmp_path: Path,
    code: int,
    said: str,
    arguments: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw = line.copy(tmp_path / "raw")
    command, *options = arguments
    config = () if "--config" in options else ("--config", str(raw.config))
    assert main([command, *config, *options]) == code
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


@pytest.mark.parametrize("arguments", [("score", "--date", DS), ("evaluate",), ("train",)])
@pytest.mark.usefixtures("no_spark")
def test_an_empty_lake_needs_no_spark(
    line: Raw, tmp_path: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    raw = line.copy(tmp_path / "raw")
    shutil.rmtree(raw.lake)
    assert main([arguments[0], "--config", str(raw.config), *arguments[1:]]) == 3
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("score", "--date", DS, "--model", "7"), ("etl", "--date", DS, "--set", LAND)]
)
def test_of_a_refused_command_nothing_stays(
    line: Raw, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Though Spark was being started, at whatever point that was."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    environment = {"TMPDIR": str(folder), "SPARK_LOCAL_DIRS": str(folder)}
    config = ("--config", str(line.config))
    with millstream(arguments[0], *config, *arguments[1:], environment=environment) as process:
        assert process.code() == 3
        assert "Traceback" not in "".join(process.said)
        # The JVM sees that its command has ended.
        psutil.wait_procs(process.left(), timeout=DEADLINE_S)
        assert not process.left()
    assert list(folder.iterdir()) == []


def test_a_session_is_started_when_it_is_used(spark: SparkSession) -> None:
    from jobs.base.spark import session_on_use

    found = session_on_use("on use")
    assert found.range(3).count() == 3
    assert found.sparkContext is spark.sparkContext
