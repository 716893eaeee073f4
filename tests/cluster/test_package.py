"""What `make package` makes works from a zip, and holds what is needed and no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.base.code import code_digest
from tools.package import LEFT_OUT, copy_submitted, files_of, pack_code, required


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    pack_code(folder)
    copy_submitted(folder)
    return folder


def run_packed(package: Path, text: str) -> subprocess.CompletedProcess[str]:
    (code,) = package.glob("millstream-*.zip")
    return subprocess.run(
        [sys.executable, "-c", text],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_packed_code_is_this_code(package: Path) -> None:
    """A night that was done from the checkout is not done again from the zip, or the reverse."""
    text = "import jobs, jobs.base.code; print(jobs.__path__[0], jobs.base.code.code_digest())"
    place, digest = run_packed(package, text).stdout.split()
    assert place.endswith(".zip/jobs")
    assert digest == code_digest()


def test_packed_watchdog_ends_a_frozen_process(package: Path) -> None:
    text = (
        "import os, signal\n"
        "from jobs.train.launch.watchdog import watched\n"
        "with watched(0.5):\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    assert run_packed(package, text).returncode == -signal.SIGKILL


def test_packed_code_is_the_same_from_any_checkout(package: Path, tmp_path: Path) -> None:
    (first,) = package.glob("millstream-*.zip")
    assert pack_code(tmp_path).read_bytes() == first.read_bytes()


def test_of_versions_the_last_one_is_there_alone(tmp_path: Path) -> None:
    (tmp_path / "millstream-0.0.1.zip").write_bytes(b"")
    packed = pack_code(tmp_path)
    assert list(tmp_path.iterdir()) == [packed]


def test_environment_holds_what_runs_and_not_what_spark_or_development_bring() -> None:
    names = {found.metadata["Name"].lower() for found in required()}
    assert {"torch", "horovod", "petastorm", "deltalake", "mlflow", "s3fs", "onnxruntime"} <= names
    assert "duckdb" in names, "the row engine"
    assert not {"pyspark", "py4j", "pytest", "moto", "millstream"} & names


def test_files_keep_their_places_below_site_packages() -> None:
    (pydantic,) = (found for found in required() if found.metadata["Name"] == "pydantic")
    files = {name: source for source, name in files_of(pydantic)}
    assert files["pydantic/main.py"].is_file()
    assert not any("/tests/" in name or name.startswith("..") for name in files)
    assert "*/tests/*" in LEFT_OUT
