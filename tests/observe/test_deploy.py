"""The dashboard and the alert rules speak of metrics and labels that the code writes."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from jobs.lake.lake import Lake
from jobs.observe.event import Event, Kind, Subject
from jobs.observe.prometheus import metric_sets
from jobs.serve.accounts import Accounts
from jobs.serve.request.errors import Failed, RequestError, Shed

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "millstream.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus" / "millstream.rules.yml").read_text("utf-8"))

_FUNCTIONS = {
    *("time", "absent", "max_over_time", "label_values"),
    *("rate", "increase", "sum", "count", "histogram_quantile"),
}
_WORDS = {
    *("on", "ignoring", "unless", "by", "dataset", "stage", "flow"),
    *("outcome", "version", "instance", "le"),
}
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


def served(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The same of a server: of a histogram its buckets, which quantiles are taken of."""
    accounts = Accounts(Lake(str(folder), "visits"), "serve-1", 0, shared=False)
    for refusal in (None, RequestError(""), Shed(""), Failed("")):
        with suppress(RequestError), accounts.request("1"):
            if refusal is not None:
                raise refusal
    accounts.rows("1", 3, 1)
    accounts.batch(4, [0.0])
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(accounts.page().decode()):
        for sample in family.samples:
            if not sample.name.endswith(("_created", "_count", "_sum")):
                found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    return {**written(), **served(tmp_path_factory.mktemp("lake"))}


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
def test_an_expression_asks_for_what_is_written(
    title: str, metrics: dict[str, list[dict[str, str]]]
) -> None:
    expression, at = ALL[title], 0
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


def test_all_that_is_written_is_shown(metrics: dict[str, list[dict[str, str]]]) -> None:
    shown = set(re.findall(r"millstream_\w+", json.dumps(DASHBOARD)))
    assert shown == metrics.keys()


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
