"""What a newcomer sees is Millstream's lines alone; with --verbose also what libraries say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading

import pytest

from jobs.base.quiet import LOG4J, jvm_errors, jvm_options, of_processes
from tests.builders.processes import ROOT
from tests.builders.visits import Raw, rows_of

# A line of Millstream's log, on any machine.
OURS = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} millstream\.[\w.]+: \S.*")
# Java says this of Spark's own options, before anything can be told to be quiet.
OF_JAVA = "WARNING: Using incubator modules: jdk.incubator.vector"


def _ran(*command: str) -> subprocess.CompletedProcess[str]:
    # A newcomer's environment: nothing set for Spark, nothing that silences libraries.
    names = ("SPARK_LOCAL_IP", "SPARK_CONF_DIR", "PYTHONWARNINGS", "MILLSTREAM_VERBOSE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended


def foreign(text: str) -> list[str]:
    """The lines that are not Millstream's."""
    return [line for line in text.splitlines() if not OURS.fullmatch(line)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Raw:
    lines = [*rows_of("2024-01-01", 300), *rows_of("2024-01-02", 50)]
    return Raw(tmp_path_factory.mktemp("quiet")).add(lines).write()


@pytest.mark.slow
def test_commands_print_their_lines_alone(raw: Raw) -> None:
    for command in (
        ("etl", "--date", "2024-01-01"),
        ("train", "--workers", "2"),
        ("score", "--date", "2024-01-02", "--model", "latest"),
    ):
        ended = _ran(sys.executable, "-m", "jobs.main", *command, "--config", str(raw.config))
        assert not foreign(ended.stderr)
        assert ended.stderr
        (result,) = ended.stdout.splitlines()
        assert result.startswith(f"{command[0]}: ")

    verbose = _ran(
        *(sys.executable, "-m", "jobs.main", "etl", "--verbose"),
        *("--date", "2024-01-01", "--config", str(raw.config)),
        *("--set", f"spark.properties_file={ROOT / 'conf' / 'spark' / 'local.conf'}"),
    )
    assert OF_JAVA in verbose.stderr
    assert "NativeCodeLoader" in verbose.stderr


def test_a_command_without_spark_prints_its_result_alone(raw: Raw) -> None:
    silent = _ran(sys.executable, "-m", "jobs.main", "models", "--config", str(raw.config))
    assert not silent.stderr


def test_spark_submit_has_the_same_log_settings() -> None:
    lines = (ROOT / "conf" / "spark" / "log4j2.properties").read_text(encoding="utf-8")
    said = [line for line in lines.splitlines() if not line.startswith("#")]
    assert said == [line for line in LOG4J.splitlines() if not line.startswith("#")]


def test_what_a_user_sets_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "spark.driver.extraJavaOptions"
    own = {name: "-Dlog4j2.configurationFile=mine.properties"}
    monkeypatch.delenv("SPARK_CONF_DIR", raising=False)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert of_processes()["PYTHONWARNINGS"] == "error"
    with jvm_options(own) as options:
        assert options == own
    with jvm_options({name: "-Xss4m"}) as options:
        assert re.fullmatch(r"-Xss4m -Dlog4j2\.configurationFile=file:///\S+", options[name])
    monkeypatch.setenv("SPARK_CONF_DIR", "conf")
    with jvm_options({}) as options:
        assert options == {}


def test_failures_of_a_jvm_are_passed_on_as_they_come(capfd: pytest.CaptureFixture[str]) -> None:
    script = (
        "printf 'WARNING: Using incubator'; sleep 0.1; printf ' modules\\n'; "
        "printf 'Error: Could not create the Java Virtual Machine.\\n'; "
        "printf '\\r[Stage 0:>'; sleep 0.1; printf 'WARNING: x]\\n'; "
        "printf 'Picked up JAVA_TOOL_OPTIONS: -X\\n'; "
        "printf 'W'"
    )
    before = set(threading.enumerate())
    with jvm_errors() as errors:
        (passing,) = set(threading.enumerate()) - before
        subprocess.run(["sh", "-c", script], stderr=errors, stdout=errors, check=True)
    # What comes while it is read would be lost.
    passing.join(timeout=60)
    said = capfd.readouterr().err
    assert said == ("Error: Could not create the Java Virtual Machine.\n\r[Stage 0:>WARNING: x]\nW")
