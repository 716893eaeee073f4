"""Spark's JVM maps the classes that `make setup` kept, where they fit, and says nothing of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from py4j.protocol import Py4JError, get_return_value

from jobs.base.jvm import CLASSES, jvm_ended, with_classes
from jobs.base.quiet import JVM_OPTIONS, jvm_options
from tests.builders.processes import ROOT
from tests.builders.visits import Raw, rows_of

START = """
import sys
from jobs.base.spark import session
spark = session("classes", sys.argv[1])
print(spark.range(3).count())
"""


def test_an_archive_is_asked_for_where_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "classes.jsa"
    assert with_classes({JVM_OPTIONS: "-Xss4m"}, file) == {JVM_OPTIONS: "-Xss4m"}
    file.touch()
    found = with_classes({JVM_OPTIONS: "-Xss4m"}, file)[JVM_OPTIONS]
    # What a user asks to be logged is, though nothing else is.
    assert found.endswith(f' "-XX:SharedArchiveFile={file}" -Xss4m')
    for own in ("-XX:SharedArchiveFile=mine", "-XX:ArchiveClassesAtExit=mine"):
        assert with_classes({JVM_OPTIONS: own}, file) == {JVM_OPTIONS: own}


def test_a_folder_in_its_class_path_keeps_no_jvm_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the checkout's, which has nothing but a configuration that is given otherwise."""
    monkeypatch.delenv("SPARK_CONF_DIR", raising=False)
    for folder, kept in (("conf/spark", False), ("own/folder", True)):
        with jvm_options({"spark.driver.extraClassPath": folder}) as options:
            assert ("spark.driver.extraClassPath" in options) is kept


def _started(tmp_path: Path, options: str) -> tuple[str, str]:
    """What starting Spark prints, and where its JVM had Spark's context from."""
    loaded, properties = tmp_path / "loaded.txt", tmp_path / "spark.conf"
    log = f"-Xlog:class+load:file={loaded}"
    properties.write_text(f"spark.ui.enabled false\n{JVM_OPTIONS} {options} {log}\n")
    ended = subprocess.run(
        [sys.executable, "-c", START, str(properties)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    lines = loaded.read_text().splitlines()
    (context,) = [line for line in lines if " org.apache.spark.SparkContext source:" in line]
    return ended.stdout + ended.stderr, context.partition("source: ")[2]


def test_the_jvm_maps_them(tmp_path: Path) -> None:
    assert CLASSES.is_file(), "make setup"
    assert _started(tmp_path, "") == ("3\n", "shared objects file (top)")


def test_an_archive_that_does_not_fit_is_left_alone(tmp_path: Path) -> None:
    wrong = tmp_path / "a folder" / "wrong.jsa"
    wrong.parent.mkdir()
    wrong.write_bytes(b"no archive")
    said, source = _started(tmp_path, with_classes({}, wrong)[JVM_OPTIONS])
    assert said == "3\n" and source.endswith(".jar")


@pytest.mark.parametrize(
    ("environment", "conf"),
    [
        ({"JAVA_HOME": "/nowhere"}, ""),
        ({"SPARK_HOME": "/nowhere"}, ""),
        ({}, "spark.master nonsense\n"),
    ],
)
def test_one_that_does_not_start_ends_a_command_without_a_trace(
    tmp_path: Path, environment: dict[str, str], conf: str
) -> None:
    raw = Raw(tmp_path).add(rows_of("2024-01-01", 30)).write()
    file = tmp_path / "spark.conf"
    file.write_bytes(b"# caf\xe9\n" + conf.encode())
    options = ("--config", str(raw.config), "--set", f"spark.properties_file={file}")
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.main", "etl", *options, "--date", "2024-01-01"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "millstream: Spark's JVM did not start: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_empty_answer_is_told_as_the_jvms_end() -> None:
    """What py4j makes of a connection that a killed JVM closed."""
    with pytest.raises(Py4JError) as raised:
        get_return_value("", None, "o28", "sc")
    ended = jvm_ended(raised.value)
    assert ended is not None and str(ended).startswith("Spark's JVM has ended: ")
    with pytest.raises(Py4JError) as raised:
        get_return_value("xsboom", None, "o28", "sc")
    assert jvm_ended(raised.value) is None
