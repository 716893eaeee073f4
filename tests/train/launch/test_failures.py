"""A failed launch is explained by the rank whose failure came first, not by its echoes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from jobs.base.errors import DataRefused, MillstreamError
from jobs.lake.store import write_json
from jobs.train.exchange.exchange import PeersSilent
from jobs.train.launch.failures import Failure, RankFailed, explained, leave_reason

EXITED = RuntimeError("... The first process to do so was:\nProcess name: 2\nExit code: 137\n")


def left(folder: Path, *failures: tuple[int, str, float]) -> str:
    for rank, kind, moment in failures:
        failure = Failure(rank, kind, (f"{kind} it was", "", ""), "", moment)
        write_json(f"{folder}/failures/rank-{rank}.json", asdict(failure))
    return str(folder)


def explain(folder: str, error: Exception = EXITED) -> MillstreamError:
    return explained(error, folder, ranks=3, stall_s=60, last_lines=["last words"])


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ([(0, "HorovodInternalError", 1.0), (1, "Locked", 2.0)], "rank 1 of 3: Locked it was"),
        ([(0, "Locked", 2.0), (1, "ConfigError", 1.0)], "rank 1 of 3: ConfigError it was"),
        (
            [(0, "HorovodInternalError", 2.0), (1, "HorovodInternalError", 1.0)],
            "rank 2 of 3 was lost",
        ),
        (
            [(0, "PeersSilent", 1.0), (2, "PeersSilent", 1.1), (1, "HorovodInternalError", 9.0)],
            "rank 1 of 3 was lost",
        ),
        ([], "rank 2 of 3 ended with exit code 137"),
    ],
    ids=["a cause before its echo", "the first of two", "killed", "late", "no word from any"],
)
def test_the_rank_that_is_named(
    tmp_path: Path, failures: list[tuple[int, str, float]], message: str
) -> None:
    assert str(explain(left(tmp_path, *failures))).startswith(message)


def test_a_start_that_takes_too_long_says_what_to_do(tmp_path: Path) -> None:
    error = explain(str(tmp_path), TimeoutError("Timed out waiting for tasks to start"))
    assert "3 ranks did not start in time" in str(error)
    assert "train.start_timeout_s" in error.remedy


def test_a_refusal_keeps_its_kind_and_parts(tmp_path: Path) -> None:
    leave_reason(DataRefused("torn", "whole", "restore"), 1, str(tmp_path))
    error = explain(str(tmp_path))
    assert isinstance(error, DataRefused)
    assert (error.found, error.expected, error.remedy) == ("rank 1 of 3: torn", "whole", "restore")


def test_an_unexpected_error_keeps_its_trace(tmp_path: Path) -> None:
    try:
        {}["no such key"]
    except KeyError as error:
        leave_reason(error, 0, str(tmp_path))
    found = explain(str(tmp_path))
    assert isinstance(found, RankFailed)
    assert "rank 0 of 3: KeyError: 'no such key'" in str(found)
    assert "test_an_unexpected_error_keeps_its_trace" in str(found)


def test_a_reason_that_cannot_be_written_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "failures").write_text("a file where a folder should be")
    leave_reason(PeersSilent("waited"), 0, str(tmp_path))
    assert "waited" in capsys.readouterr().err


def test_an_unknown_failure_shows_the_last_words(tmp_path: Path) -> None:
    assert "last words" in str(explain(str(tmp_path), RuntimeError("no idea")))
