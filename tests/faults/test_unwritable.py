"""A lake that cannot be written, or a full disk, is said in three lines, without a trace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from pyspark.sql import SparkSession

from jobs.main import main
from jobs.stores.errors import store_failed
from jobs.stores.host import guarded
from tests.base.test_quiet import foreign
from tests.builders.lakes import run_etl
from tests.builders.processes import ROOT, millstream
from tests.builders.visits import Raw, rows_of

DS = "2024-01-01"
# A file system of one's own, seen by the command alone.
_IN_NAMESPACE = ("unshare", "-rm", "sh", "-c")


def _may_mount() -> bool:
    mounts = (*_IN_NAMESPACE, "mount -t tmpfs none /mnt")
    return shutil.which("unshare") is not None and not subprocess.call(
        mounts, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


mounting = pytest.mark.skipif(
    not _may_mount(),
    reason="needs the right to mount a file system (unshare -rm)",
)


def ran(folder: Path, mounted: str, *command: str) -> tuple[int, list[str]]:
    """Exit code and foreign lines of a command beside which a tmpfs is mounted on the folder."""
    folder.mkdir(exist_ok=True)
    program = [sys.executable, "-m", "jobs.main", *command]
    script = f'mount -t tmpfs -o {mounted} none "$0" && exec "$@"'
    ended = subprocess.run(
        [*_IN_NAMESPACE, script, str(folder), *program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return ended.returncode, foreign(ended.stderr)


@pytest.mark.parametrize(
    "command", [("etl", "--date", DS), ("train",), ("score", "--date", DS), ("rollback",)]
)
def test_a_lake_that_is_a_file_is_named(
    tmp_path: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    raw = Raw(tmp_path).add(rows_of(DS, 9)).write()
    raw.lake.write_text("")
    assert main([*command, "--config", str(raw.config)]) == 2
    first, *more = capsys.readouterr().err.splitlines()
    assert first.startswith(f"millstream: {raw.lake}/visits/locks: Not a directory")
    assert [line.split(":")[0] for line in more] == ["  expected", "  to do"]


@mounting
def test_who_may_only_read_sees_status_models_and_files(
    tmp_path: Path, spark: SparkSession
) -> None:
    raw = Raw(tmp_path).add(rows_of(DS, 30)).write()
    run_etl(raw, spark, [DS])
    assert main(["models", "--config", str(raw.config)]) == 0
    with guarded(raw.lake / "visits" / "locks" / "registry.guard"):
        pass
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    for command in ("status", "models", "files"):
        program = (sys.executable, "-m", "jobs.main", command, "--config", str(raw.config))
        ended = subprocess.run(
            [*_IN_NAMESPACE, script, str(raw.lake), *program],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, ""), command


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_a_store_that_spark_has_no_client_for_is_named(spark: SparkSession, scheme: str) -> None:
    with pytest.raises(Exception, match="FileSystem") as raised:
        spark.read.parquet(f"{scheme}://bucket/folder")
    known = store_failed(raised.value)
    assert known is not None and known.exit_code == 2
    assert f"Spark has no client for {scheme}://" in str(known)


@mounting
def test_a_lake_that_is_read_only_is_named(tmp_path: Path) -> None:
    raw = Raw(tmp_path / "raw").add(rows_of(DS, 9)).write()
    config = ("--config", str(raw.config))
    code, lines = ran(raw.lake, "ro,size=1m", "etl", "--date", DS, *config)
    assert (code, lines[0]) == (2, f"millstream: {raw.lake}/visits: Read-only file system")
    assert len(lines) == 3


@mounting
@pytest.mark.slow
@pytest.mark.parametrize("place", ["the lake", "Spark's files"])
def test_a_full_disk_is_said_without_a_trace_of_python_or_java(tmp_path: Path, place: str) -> None:
    raw = Raw(tmp_path / "raw").add(rows_of(DS, 200_000)).write()
    folder = raw.lake if place == "the lake" else tmp_path / "local"
    properties = tmp_path / "spark.conf"
    properties.write_text(f"spark.master local[2]\nspark.local.dir {tmp_path / 'local'}\n")
    code, lines = ran(
        folder,
        "size=2m",
        *("etl", "--date", DS, "--config", str(raw.config)),
        *("--set", f"spark.properties_file={properties}"),
    )
    assert (code, lines[0]) == (1, "millstream: No space left on device"), lines
    assert len(lines) == 3, lines


@mounting
@pytest.mark.slow
def test_a_torn_file_that_tasks_read_is_named_without_a_trace(tmp_path: Path) -> None:
    raw = Raw(tmp_path / "raw").add(rows_of(DS, 600_000)).truncated_gzip()
    code, lines = ran(
        tmp_path / "other", "size=1m", "etl", "--date", DS, "--config", str(raw.config)
    )
    assert code == 3
    assert "visits.csv.gz cannot be read" in lines[0]
    assert len(lines) == 3


@pytest.mark.slow
def test_a_jvm_that_is_killed_is_named_without_a_trace(tmp_path: Path) -> None:
    raw = Raw(tmp_path / "raw").add(rows_of(DS, 200_000)).write()
    with millstream("etl", "--date", DS, "--config", str(raw.config)) as process:
        process.until("fitted")
        driver = psutil.Process(process.popen.pid)
        (jvm,) = (child for child in driver.children() if child.name() == "java")
        jvm.kill()
        assert process.code() == 1
    lines = foreign(process.said[-1])
    assert lines[0].startswith("millstream: Spark's JVM has ended: ")
    assert len(lines) == 3
