"""The webhook: told once of a failure and of a promotion, and never in a run's way."""

from __future__ import annotations

import json
import logging
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from jobs.base.errors import DataRefused, GateRefused, Locked
from jobs.observe.http import post_json
from tests.observe.runs import run_of, settings_of
from tests.observe.servers import Server, closed_url, serving

ENV = "MILLSTREAM_WEBHOOK"


def bodies(server: Server) -> list[dict[str, Any]]:
    assert all(request.method == "POST" for request in server.requests)
    return [json.loads(request.body) for request in server.requests]


def test_a_failure_is_told_once_with_what_one_must_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Server(status=204)) as server:
        monkeypatch.setenv(ENV, f"{server.url}/services/s3cr3t-path")
        settings = settings_of(tmp_path, webhook_url_env=ENV, json_log="log.jsonl")
        with (
            pytest.raises(DataRefused),
            run_of(settings, "nightly", dates=["2024-01-02"]),
            run_of(settings, "etl", dates=["2024-01-02"]),
        ):
            raise DataRefused("no raw file matches x.csv", remedy="land the files")
    (body,) = bodies(server)
    assert server.requests[0].path == "/services/s3cr3t-path"
    assert body.pop("time").endswith("+00:00")
    assert body == {
        "what": "failure",
        "dataset": "visits",
        "ds": "2024-01-02",
        "run": "etl-1",
        "stage": "etl",
        "message": "no raw file matches x.csv\n  to do: land the files",
        "exit_code": 3,
        "version": "",
        "text": "visits 2024-01-02: etl failed (exit 3): no raw file matches x.csv\n"
        "  to do: land the files",
    }
    assert "s3cr3t" not in (tmp_path / "log.jsonl").read_text()


def test_a_promotion_is_told_and_a_success_is_not(tmp_path: Path) -> None:
    with serving(Server()) as server:
        settings = settings_of(tmp_path, webhook_url=server.url)
        with run_of(settings, "nightly", dates=["2024-01-02"]) as night:
            with run_of(settings, "train") as train:
                train.done(versions={"model": "4"})
            night.promoted("4", instead_of="3")
    (body,) = bodies(server)
    assert (body["what"], body["version"], body["exit_code"]) == ("promotion", "4", 0)
    assert body["text"] == "visits 2024-01-02: model version 4 is the champion"


def test_a_night_that_fails_by_itself_is_told_and_a_second_one_is_not(tmp_path: Path) -> None:
    with serving(Server()) as server:
        settings = settings_of(tmp_path, webhook_url=server.url)
        with pytest.raises(Locked), run_of(settings, "nightly"):
            raise Locked("held by run 7")
        with pytest.raises(GateRefused), run_of(settings, "nightly"):
            with run_of(settings, "score"):
                pass
            raise GateRefused("worse than the champion")
    (body,) = bodies(server)
    assert (body["stage"], body["exit_code"]) == ("nightly", 4)


def warned(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = [r for r in caplog.records if r.name == "millstream.observe"]
    assert record.levelno == logging.WARNING
    return record.getMessage()


def test_a_server_that_takes_a_post_and_says_nothing_is_named_with_the_time() -> None:
    with (
        serving(Server(silent=True)) as server,
        pytest.raises(TimeoutError, match=r"^no answer within 0\.1 s$"),
    ):
        post_json(server.url, {}, timeout_s=0.1)


@pytest.mark.parametrize("trouble", ["refuses", "moved", "silent", "absent"])
def test_a_webhook_in_trouble_fails_no_run_and_is_named(
    trouble: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    status = {"refuses": 500, "moved": 302}.get(trouble, 200)
    with serving(Server(status=status, silent=trouble == "silent")) as server:
        url = closed_url() if trouble == "absent" else server.url
        settings = settings_of(
            tmp_path, webhook_url=url, timeout_s=2 if trouble != "silent" else 0.2
        )
        with run_of(settings, "nightly") as night:
            started = time.monotonic()
            night.promoted("1")
            night.promoted("2")
            waited_s = time.monotonic() - started
    said = {
        "refuses": "answered 500",
        "moved": "answered 302",
        "silent": "0.2 s",
        "absent": "no answer",
    }
    assert warned(caplog).startswith("observer webhook failed, the run goes on without it: ")
    assert said[trouble] in warned(caplog)
    # A server that never answers holds a run up for its deadlines, not for ever.
    assert waited_s < 30


def test_a_webhook_whose_variable_is_not_set_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(ENV, raising=False)
    with run_of(settings_of(tmp_path, webhook_url_env=ENV), "nightly") as night:
        night.promoted("1")
    assert f"no variable {ENV}" in warned(caplog)


def test_a_user_in_the_url_is_authentication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of all three services; the address is asked for without them."""
    names = ("webhook_url_env", "lineage_url_env", "pushgateway_url_env")
    with serving(Server()) as server:
        url = server.url.replace("://", "://me:pass%2Fword@")
        monkeypatch.setenv(ENV, url)
        settings = settings_of(tmp_path, **dict.fromkeys(names, ENV))
        with run_of(settings, "nightly") as night:
            night.promoted("1")
    asked = {request.path: request.headers for request in server.requests}
    assert len(asked) >= 2
    assert any(path.startswith("/metrics/job/") for path in asked)
    expected = f"Basic {b64encode(b'me:pass/word').decode()}"
    assert {headers.get("Authorization") for headers in asked.values()} == {expected}
    assert "pass" not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "hooks.example.com/services/topsecret",
        "https://hooks.example.com/services/top secret",
        "https://hooks.example.com:topsecret/x",
        "https://hooks.example.com/services/tops\u00e9cret",
    ],
)
def test_a_url_that_is_none_is_named_by_its_variable_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    monkeypatch.setenv("CHAT_ADDRESS", url)
    settings = settings_of(tmp_path, webhook_url_env="CHAT_ADDRESS", json_log="log.jsonl")
    with pytest.raises(DataRefused), run_of(settings, "etl"):
        raise DataRefused(f"the text {url} in a message")
    assert "the environment's CHAT_ADDRESS holds no URL" in caplog.text
    text = caplog.text + (tmp_path / "log.jsonl").read_text()
    assert not any(secret in text for secret in ("secret", "cret"))
    assert "the text [CHAT_ADDRESS] in a message" in text
