"""The dashboard and the alert rules speak of metrics and labels that the code writes."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from jobs.observe.event import Event, Kind, Subject
from jobs.observe.prometheus import metric_sets

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "millstream.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus" / "millstream.rules.yml").read_text("utf-8"))

_FUNCTIONS = {"time", "absent", "max_over_time", "label_values"}
_WORDS = {"on", "ignoring", "unless", "dataset", "stage", "flow"}
# PromQL's tokens, as far as the expressions here go.
_TOKEN = re.compile(
    r'\s+|(?P<name>[a-zA-Z_]\w*)|(?P<selector>\{[^{}]*\})|(?P<range>\[\d+[smhd]\])|(?P<text>"[^"]*")'
    r"|\d+(?:\.\d+)?|==|[<>]=?|[-+*/(),]"
)
_MATCHER = re.compile(r'(\w+)(?:=~?|!=)"([^"]*)"')


def written() -> dict[str, list[dict[str, str]]]:
    """The labels of each metric that a night writes, by its name."""
    found: dict[str, list[dict[str, str]]] = {}
    kinds: tuple[Kind, ...] = ("start", "promotion", "done")
    now = dt.datetime.now(dt.UTC)
    for stage in ("etl", "train", "evaluate", "score", "nightly"):
        subject = Subject("visits", "lake/visits", {}, stage, "run-1")
        for kind in kinds:
            event = Event(
                kind,
                subject,
                now,
                counts={"raw": 3, "train": 2, "quarantined": 1},
                metrics={"auc": 0.7},
            )
            for registry in metric_sets(event).values():
                for family in registry.collect():
                    samples = [sample.labels for sample in family.samples]
                    found.setdefault(family.name, []).extend(samples)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


ALL = dict(expressions())


@pytest.mark.parametrize("title", ALL)
def test_an_expression_asks_for_what_is_written(title: str) -> None:
    expression, at, metrics = ALL[title], 0, written()
    assert expression.count("(") == expression.count(")")
    name = ""
    while at < len(expression):
        token = _TOKEN.match(expression, at)
        assert token, f"{title}: not PromQL from here: {expression[at:]}"
        at = token.end()
        if found := token["name"]:
            assert found in _FUNCTIONS | _WORDS | metrics.keys(), f"{title}: unknown {found}"
            name = found
        if selector := token["selector"]:
            matchers = dict(_MATCHER.findall(selector))
            assert _MATCHER.sub("", selector).strip("{}, ") == ""
            wanted = {key: value for key, value in matchers.items() if "$" not in value}
            assert any(wanted.items() <= labels.items() for labels in metrics[name])
            assert matchers.keys() <= metrics[name][0].keys()


def test_all_that_is_written_is_shown() -> None:
    shown = set(re.findall(r"millstream_\w+", json.dumps(DASHBOARD)))
    assert shown == written().keys()


def test_what_alerts_say_can_be_said() -> None:
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket")
        labels = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
        assert set(labels) <= {"dataset", "stage"}
        assert rule["annotations"]["action"]


def test_panels_have_their_places() -> None:
    places = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & places
        places |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
