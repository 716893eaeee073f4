"""Runs as Prometheus metrics: text files for node_exporter, or pushed to a Pushgateway.

A run writes three sets of metrics, each when it is known: at the start, at the end, and on success
only. A set replaces itself alone, so that a failure leaves what the last success said.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, pushadd_to_gateway, write_to_textfile
from prometheus_client.exposition import basic_auth_handler, default_handler

from jobs.observe.event import Event
from jobs.observe.http import address, without_user

JOB = "millstream"
_LABELS = ("dataset", "stage")
_OUT = ("train", "val", "test", "all", "predicted")


class Textfile:
    """Three files for each stage of a data set, each replaced whole."""

    name = "prometheus_folder"

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def tell(self, event: Event) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for part, registry in metric_sets(event).items():
            # The collector reads *.prom only; the library's temporary file is none.
            name = f"millstream_{event.subject.dataset}_{event.subject.stage}_{part}.prom"
            path = self._folder / re.sub(r"[^A-Za-z0-9_.-]", "_", name)
            write_to_textfile(str(path), registry)


class Pushgateway:
    """Metrics of the same name, data set and stage are replaced, the others stay."""

    name = "pushgateway_url"

    def __init__(self, url: str | None, environment: str | None, timeout_s: float) -> None:
        self._url, self._environment, self._timeout_s = url, environment, timeout_s

    def tell(self, event: Event) -> None:
        subject = event.subject
        group = {"dataset": subject.dataset, "stage": subject.stage}
        url, user = without_user(address(self._url, self._environment))
        handler = default_handler if user is None else _basic(*user)
        for registry in metric_sets(event).values():
            pushadd_to_gateway(url, JOB, registry, group, self._timeout_s, handler)


def _basic(user: str, password: str) -> Callable[..., Any]:
    """prometheus_client's way to ask as a user."""

    def handler(
        url: str, method: str, timeout: float | None, headers: Any, data: bytes
    ) -> Callable[[], None]:
        return basic_auth_handler(url, method, timeout, headers, data, user, password)

    return handler


def metric_sets(event: Event) -> dict[str, CollectorRegistry]:
    """The sets of metrics that an event gives, by name.

    A run that found another one at work tells nothing: that one does.
    """
    if event.is_locked:
        return {}
    if event.kind == "start":
        return {"start": _started(event)}
    if event.kind == "promotion":
        return {"promotion": _promoted(event)}
    ended = {"end": _ended(event)}
    return ended | ({"success": _succeeded(event)} if event.kind == "done" else {})


class _Set:
    """Gauges with the labels that all have."""

    def __init__(self, event: Event) -> None:
        self.registry = CollectorRegistry()
        self._values = (event.subject.dataset, event.subject.stage)

    def add(self, name: str, text: str, value: float) -> None:
        gauge = Gauge(f"millstream_{name}", text, _LABELS, registry=self.registry)
        gauge.labels(*self._values).set(value)

    def add_each(self, name: str, text: str, label: str, values: dict[str, float]) -> None:
        gauge = Gauge(f"millstream_{name}", text, (*_LABELS, label), registry=self.registry)
        for key, value in values.items():
            gauge.labels(*self._values, key).set(value)


def _started(event: Event) -> CollectorRegistry:
    found = _Set(event)
    moment = event.time.timestamp()
    found.add("run_start_timestamp_seconds", "When the last run started.", moment)
    return found.registry


def _ended(event: Event) -> CollectorRegistry:
    found = _Set(event)
    moment = event.time.timestamp()
    found.add("run_end_timestamp_seconds", "When the last run ended, well or not.", moment)
    found.add("run_duration_seconds", "How long the last run took.", event.seconds)
    found.add("run_success", "1 where the last run ended well, else 0.", event.kind == "done")
    found.add("run_exit_code", "What the last run's command ended with.", event.exit_code)
    return found.registry


def _succeeded(event: Event) -> CollectorRegistry:
    found = _Set(event)
    moment = event.time.timestamp()
    found.add("last_success_timestamp_seconds", "When a run last ended well.", moment)
    if rows := rows_of(event):
        found.add_each("rows", "Rows of the last successful run.", "flow", rows)
    if event.metrics:
        text = "What the last successful run measured: auc, log_loss, ..."
        found.add_each("model_metric", text, "metric", dict(event.metrics))
    return found.registry


def _promoted(event: Event) -> CollectorRegistry:
    found = _Set(event)
    moment = event.time.timestamp()
    found.add("promotion_timestamp_seconds", "When a model last became the champion.", moment)
    return found.registry


def rows_of(event: Event) -> dict[str, float]:
    """Rows `in`, `out` and `refused`, those that the stage counts."""
    counts = event.counts
    found: dict[str, float] = {}
    if (read := counts.get("raw", counts.get("rows"))) is not None:
        found["in"] = read
    if written := [counts[name] for name in _OUT if name in counts]:
        found["out"] = sum(written)
    if "quarantined" in counts:
        found["refused"] = counts["quarantined"]
    return found
