"""A failed launch is explained by the rank whose failure came first, not by its echoes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError

from jobs.base.errors import DataRefused, MillstreamError
from jobs.stores.files import write_json
from jobs.train.exchange.exchange import PeersSilent
from jobs.train.launch import failures
from jobs.train.launch.failures import (
    Failure,
    RankFailed,
    explained,
    has_reasons,
    leave_reason,
)
from tests.builders.s3 import S3, SILENCE

EXITED = RuntimeError("... The first process to do so was:\nProcess name: 2\nExit code: 137\n")


def left(folder: Path, *ranks: tuple[int, str, float]) -> str:
    for rank, kind, moment in ranks:
        failure = Failure(rank, kind, (f"{kind} it was", "", ""), "", moment)
        write_json(f"{folder}/failures/rank-{rank}.json", asdict(failure))
    return str(folder)


def explain(folder: str, error: Exception = EXITED) -> MillstreamError:
    return explained(error, folder, ranks=3, stall_s=60, last_lines=["last words"])


@pytest.mark.parametrize(
    ("ranks", "message"),
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
    tmp_path: Path, ranks: list[tuple[int, str, float]], message: str
) -> None:
    assert str(explain(left(tmp_path, *ranks))).startswith(message)


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


def test_whatever_the_store_does_a_reason_is_printed_at_once(
    s3: S3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """botocore's errors are no OSErrors; and a silent store keeps no rank from ending."""

    def unreachable(*_: object) -> None:
        raise EndpointConnectionError(endpoint_url="http://store")

    with monkeypatch.context() as patch:
        patch.setattr(failures, "write_json", unreachable)
        leave_reason(PeersSilent("waited"), 0, "anywhere")
    assert "waited" in capsys.readouterr().err
    monkeypatch.setattr(failures, "LEAVE_S", 0.2)
    with s3.failing("silent/failures", SILENCE, method="PUT"):
        leave_reason(PeersSilent("waited long"), 0, s3.url("silent"))
    assert "waited long" in capsys.readouterr().err
    with s3.failing("silent", SILENCE, method="GET"):
        assert not has_reasons(s3.url("silent"))
        assert "no idea" in str(explain(s3.url("silent"), RuntimeError("no idea")))


def test_a_rank_ends_even_when_its_last_words_cannot_be_printed(tmp_path: Path) -> None:
    (tmp_path / "failures").write_text("a file where a folder should be")
    code = (
        "import sys\nfrom jobs.train.launch.failures import end_rank\n"
        "sys.stderr = open('/dev/full', 'w')\n"
        "try:\n"
        f"    end_rank(ValueError('no'), 1, {str(tmp_path)!r})\n"
        "finally:\n"
        "    print('still here', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")


def test_a_failure_has_the_ranks_number_of_now() -> None:
    code = (
        "import horovod.torch as hvd\nfrom jobs.train.launch.ranks import _rank_now\n"
        "hvd.init()\nprint(_rank_now(3))\nhvd.shutdown()\nprint(_rank_now(3))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["0", "3"], done.stderr


def test_an_unknown_failure_shows_the_last_words(tmp_path: Path) -> None:
    assert "last words" in str(explain(str(tmp_path), RuntimeError("no idea")))
