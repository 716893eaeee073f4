"""The command line itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from pyspark.sql import SparkSession

from jobs.main import main, millstream
from tests.builders.lakes import run_etl
from tests.builders.visits import Raw, rows_of


def _unread(stream: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code and outputs of a command whose standard output, or error, nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writing}
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.main", *arguments],
        **streams,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(writing)
    return ended.returncode, ended.stdout or "", ended.stderr or ""


def test_a_reader_that_has_gone_is_no_failure(tmp_path: Path, spark: SparkSession) -> None:
    raw = Raw(tmp_path).add(rows_of("2024-01-01", 30)).write()
    run_etl(raw, spark, ["2024-01-01"])
    assert _unread("stdout", "files", "--config", str(raw.config)) == (0, "", "")


@pytest.mark.parametrize(
    ("stream", "arguments", "code"),
    [
        ("stdout", ("--help",), 0),
        ("stderr", ("etl",), 2),
        ("stderr", ("files", "--config", "none.yaml"), 2),
    ],
)
def test_nor_of_help_and_errors(stream: str, arguments: tuple[str, ...], code: int) -> None:
    assert _unread(stream, *arguments) == (code, "", "")


def _in_shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell's line, where `$M` is the command."""
    return subprocess.run(
        ["bash", "-c", line.replace("$M", f"{sys.executable} -m jobs.main")],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$M --help >&-", 0),
        ("$M status --config x.yaml >&-", 2),
        ("$M status --config x.yaml >&- 2>&-", 2),
        ("$M status --config x.yaml 2>/dev/full", 2),
        ("$M --help >/dev/full", 1),
    ],
)
def test_closed_and_full_outputs_end_in_no_trace(line: str, code: int) -> None:
    ended = _in_shell(line)
    assert (ended.returncode, "Traceback" in ended.stderr) == (code, False), ended.stderr


def test_a_text_that_an_output_cannot_show_is_no_failure(tmp_path: Path) -> None:
    raw = Raw(tmp_path).write()
    line = f"$M status --config {raw.config} --set lake=l\u00e4ke"
    ended = _in_shell(line, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "l\\xe4ke/" in ended.stdout


# Usage


@pytest.mark.parametrize("name", [[], *([name] for name in sorted(millstream.commands))])
def test_help_needs_no_settings_and_names_the_exit_codes(name: list[str]) -> None:
    found = CliRunner().invoke(millstream, [*name, "--help"], prog_name="millstream")
    assert found.exit_code == 0
    assert found.output.startswith(" ".join(["Usage: millstream", *name, "[OPTIONS]"]))
    assert "Exit codes: 0 done; 1 unexpected; 2 usage or settings" in found.output


DAY = ("--config", "x.yaml", "--date", "2024-01-01")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing command."),
        (("nothing",), "No such command 'nothing'."),
        (("models",), "Missing option '--config'."),
        (("etl", *DAY, "--conf", "x"), "No such option '--conf'. Did you mean '--config'?"),
        (("etl", "--config", "x.yaml"), "One of --date or --dates is required."),
        (("etl", *DAY, "--dates", "2024-01-01..2024-01-02"), "--date and --dates exclude"),
        (("etl", *DAY, "--quiet", "--verbose"), "--quiet and --verbose exclude each other."),
        (("nightly", *DAY, "--force", "--from", "etl"), "--from and --force exclude each other."),
        (("nightly", *DAY, "--only", "nap"), "'nap' is not one of 'etl', 'train'"),
        (("score", *DAY[:2], "--dates", "2024-01-02..2024-01-01"), "ends before it starts"),
        (("score", *DAY[:2], "--dates", "2024-01-02"), "is no range FIRST..LAST"),
        (("train", *DAY[:2], "--workers", "two"), "'two' is not a valid integer."),
        (("rollback", *DAY[:2], "--to", "--quiet"), "Option '--to' requires an argument."),
        (("erase", *DAY[:2], "--key", "--quiet"), "Option '--key' requires an argument."),
        (("erase", *DAY[:2], "user=1"), "Got unexpected extra argument (user=1)"),
    ],
)
def test_a_wrong_command_line_is_refused_with_the_way_to_its_help(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("millstream: ")
    assert message in found.err
    command = " ".join(["millstream", *(a for a in arguments[:1] if a in millstream.commands)])
    assert found.err.endswith(f"\n  to do: see `{command} --help`\n")


def test_help_loads_no_library_that_takes_time() -> None:
    code = (
        "import sys; from jobs.main import main; code = main(['etl', '--help'])\n"
        "slow = {'torch', 'pyspark', 'mlflow', 'pyarrow', 'pydantic', 'numpy', 'fsspec'}\n"
        "sys.exit(code or str(slow & sys.modules.keys() or ''))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, b"\n"), ended.stderr


# Completion in a shell


_COMPLETE = """
eval "$(_MILLSTREAM_COMPLETE=bash_source millstream)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_millstream_completion millstream
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["ro"], ["rollback"]),
        (["erase", "--ke"], ["--key", "--keys"]),
        (["erase", "--config", "x", "--key", "a=1", "b=2", "--q"], ["--quiet"]),
        (["nightly", "--from", "e"], ["etl", "evaluate"]),
        (["files", "--config", "x", "--split", ""], ["train", "val", "test"]),
    ],
)
def test_bash_completes_commands_options_and_values(
    words: list[str], completed: list[str], tmp_path: Path
) -> None:
    command = tmp_path / "millstream"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m jobs.main "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    ended = subprocess.run(
        ["bash", "-c", _COMPLETE, "bash", "millstream", *words],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ended.stdout.splitlines() == completed, ended.stderr
