"""Runs Petastorm's own tests, as its wheel ships them, on this environment's Arrow and NumPy.

Fails where a test does not pass that passes with the versions Petastorm was written for.
`tests/petastorm_known_failures.txt` names the others. Arguments are some of the test modules
below; without any, all are run.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest

from jobs.petastorm_legacy import hook

MODULES = [
    "test_unischema",
    "test_codec_compressed_image",
    "test_codec_ndarray",
    "test_codec_scalar",
    "test_parquet_reader",
    "test_end_to_end",
    "test_dataset_metadata",
    "test_metadata_read",
    "test_predicates",
    "test_transform",
    "test_reader",
    "test_pytorch_dataloader",
    "test_pytorch_utils",
    "test_disk_cache",
    "test_cache",
    "test_shuffling_buffer",
]
KNOWN = Path(__file__).parents[1] / "tests" / "petastorm_known_failures.txt"
# How many of all tests pass in Petastorm's own world.
PASSED_THERE = 272


class Outcomes:
    """A pytest plugin that keeps each test's worst outcome by name."""

    def __init__(self) -> None:
        self.collected: set[str] = set()
        self.passed: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected = {item.nodeid for item in session.items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)
        elif report.failed:
            self.passed.discard(report.nodeid)


def run(modules: Iterable[str]) -> Outcomes:
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    hook.install()
    package = find_spec("petastorm")
    assert package is not None and package.origin is not None
    outcomes = Outcomes()
    # pytest's own rewriting of asserts would load the test modules past the hook.
    options = ["-q", "--assert=plain", "-p", "no:cacheprovider", "-W", "ignore", "--tb=short"]
    options += ["-c", os.devnull, "--rootdir", str(Path(package.origin).parents[1]), "--pyargs"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        pytest.main([*options, *(f"petastorm.tests.{m}" for m in modules)], [outcomes])
        os.chdir("/")
    return outcomes


def main(modules: list[str]) -> int:
    if others := sorted(set(modules) - set(MODULES)):
        print(f"not among the tests that are compared: {', '.join(others)}")
        return 2
    outcomes = run(modules or MODULES)
    lines = KNOWN.read_text(encoding="utf-8").splitlines()
    known = {line for line in lines if line and not line.startswith("#")}
    wanted = outcomes.collected - known
    missing = sorted(wanted - outcomes.passed)
    for name in missing:
        print(f"did not pass, and does in Petastorm's own world: {name}")
    for name in sorted(outcomes.passed & known):
        print(f"passes, and does not in Petastorm's own world: {name}")
    passed = len(wanted & outcomes.passed)
    expected = len(wanted) if modules else PASSED_THERE
    print(f"{passed} of the {expected} tests that pass in Petastorm's own world pass here.")
    return 0 if 0 < passed == expected and not missing else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
