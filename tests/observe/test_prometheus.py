"""Metrics of runs: what is written when, and that a failure leaves the last success."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.base.errors import DataRefused, Locked
from jobs.settings.settings import Settings
from tests.observe.runs import run_of, settings_of
from tests.observe.servers import Gateway, Metrics, metrics_of, serving

GROUP = "/metrics/job/millstream/dataset/visits/stage/score"
COUNTS = {"raw": 100, "predicted": 93, "quarantined": 7}


def succeed(settings: Settings) -> None:
    with run_of(settings, "score") as run:
        run.done(counts=COUNTS, versions={"predictions": "1"}, metrics={"auc": 0.75})


def fail(settings: Settings, error: Exception) -> None:
    with pytest.raises(type(error)), run_of(settings, "score"):
        raise error


def read(folder: Path) -> Metrics:
    """All metrics of the folder by name and labels, each from one file only."""
    found: Metrics = {}
    for path in sorted(folder.iterdir()):
        assert path.suffix == ".prom"
        metrics = metrics_of(path.read_text(encoding="utf-8"))
        assert not found.keys() & metrics.keys()
        found |= metrics
    return found


def value(metrics: Metrics, name: str, *labels: str) -> float:
    return metrics[f"millstream_{name}"][("visits", "score", *labels)]


def check_success(metrics: Metrics) -> None:
    assert value(metrics, "run_success") == 1
    assert value(metrics, "run_exit_code") == 0
    flows = {flow: value(metrics, "rows", flow) for flow in ("in", "out", "refused")}
    assert flows == {"in": 100, "out": 93, "refused": 7}
    assert value(metrics, "model_metric", "auc") == 0.75
    start, end = (value(metrics, f"run_{which}_timestamp_seconds") for which in ("start", "end"))
    assert start <= end == value(metrics, "last_success_timestamp_seconds")
    assert 0 <= value(metrics, "run_duration_seconds") <= end - start + 1


def check_failure_after(success: Metrics, now: Metrics) -> None:
    assert (value(now, "run_success"), value(now, "run_exit_code")) == (0, 3)
    assert value(now, "run_start_timestamp_seconds") > value(
        success, "last_success_timestamp_seconds"
    )
    for name in ("last_success_timestamp_seconds", "rows", "model_metric"):
        assert now[f"millstream_{name}"] == success[f"millstream_{name}"]


def test_a_failure_leaves_the_last_success_in_the_files(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, prometheus_folder="metrics")
    succeed(settings)
    success = read(tmp_path / "metrics")
    check_success(success)
    fail(settings, DataRefused("no rows"))
    check_failure_after(success, read(tmp_path / "metrics"))


def test_a_failure_leaves_the_last_success_at_the_gateway(tmp_path: Path) -> None:
    gateway = Gateway()
    with serving(gateway):
        settings = settings_of(tmp_path, pushgateway_url=gateway.url)
        succeed(settings)
        success = dict(gateway.groups[GROUP])
        check_success(success)
        fail(settings, DataRefused("no rows"))
        check_failure_after(success, gateway.groups[GROUP])
    assert set(gateway.groups) == {GROUP}


def test_a_run_that_found_another_at_work_counts_for_nothing(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, prometheus_folder="metrics")
    fail(settings, DataRefused("no rows"))
    before = read(tmp_path / "metrics")
    fail(settings, Locked("held by run 7"))
    after = read(tmp_path / "metrics")
    assert {**after, "millstream_run_start_timestamp_seconds": {}} == {
        **before,
        "millstream_run_start_timestamp_seconds": {},
    }


def test_a_gateway_in_trouble_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(Gateway(status=500)) as gateway:
        succeed(settings_of(tmp_path, pushgateway_url=gateway.url))
    assert "observer pushgateway_url failed" in caplog.text
    assert "500" in caplog.text
