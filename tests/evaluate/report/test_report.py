"""The report: one file that stands alone, with the pictures and the numbers it promises."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from jobs.base.pages.chart import Chart
from jobs.evaluate.gate.gate import Verdict, decide
from jobs.evaluate.measure.group import Group
from jobs.evaluate.measure.metrics import CalibrationBin, Metrics
from jobs.evaluate.report.report import Report, RowsRead, render, write_report
from jobs.settings.evaluate import GateRule, GateSettings
from schemas.field import Task


def _metrics(auc: float) -> Metrics:
    values = {"auc": auc, "log_loss": 0.43, "ece": 0.01, "base_rate": 0.24}
    bins = (CalibrationBin(0.0, 0.5, 60, 60.0, 0.2, 0.25), CalibrationBin(0.5, 1, 40, 40, 0.7, 0.6))
    histogram = tuple((1 / 32, 1 / 32) for _ in range(32))
    roc = ((0.0, 0.0), (0.2, 0.6), (1.0, 1.0))
    pr = ((0.2, 0.9), (1.0, 0.24))
    return Metrics(
        "binary",
        12_345,
        12_345.0,
        values,
        {name: value + 0.01 * np.sin(np.arange(50.0)) for name, value in values.items()},
        bins,
        roc,
        pr,
        histogram,
        {
            Group(("shop",), ("a",)): Metrics(
                "binary", 9_000, 9_000.0, {**values, "auc": auc + 0.02}
            ),
            Group(("shop",), ("b",)): Metrics(
                "binary", 3_345, 3_345.0, {**values, "auc": math.nan}
            ),
        },
    )


def _report(**changes: object) -> Report:
    given = {
        "title": "flights, model version 7",
        "subtitle": "split 'test' of 2013-01-01..2013-11-30",
        "metrics": _metrics(0.789),
        "curves": {"train_loss": [0.5, 0.45], "val_loss": [0.5, 0.47], "val_auc": [0.7, 0.75]},
        "facts": {"weights": "9f86d081884c7d65"},
    }
    return Report(**{**given, **changes})  # type: ignore[arg-type]


def _pictures(page: str) -> dict[str, ElementTree.Element]:
    figures = re.findall(r"<figcaption>([^<]*)<.*?(<svg.*?</svg>)", page)
    return {title: ElementTree.fromstring(svg) for title, svg in figures}


def test_all_pictures_are_there_and_hold_drawings() -> None:
    pictures = _pictures(render(_report()))

    assert set(pictures) == {
        "Calibration",
        "ROC, area",
        "Precision and recall, area",
        "Scores by label",
        "Training: loss",
        "Training: validation AUC",
    }
    for title, svg in pictures.items():
        drawn = [part for part in svg if part.tag in ("polyline", "polygon")]
        assert drawn, title
        numbers = re.findall(r"[-\d.]+", " ".join(part.get("points", "") for part in drawn))
        assert all(0 <= float(number) <= 360 for number in numbers), title


def test_slices_reasons_and_drift_are_shown() -> None:
    read = RowsRead(
        days={"2013-01-01": {"raw": 900, "train": 880, "quarantined": 20}},
        reasons={"duplicate_key": 5, "above_max:age": 15},
        drift={"age": [0.03, float("nan")]},
    )

    page = render(_report(read=read, champion=_metrics(0.78)))

    assert {"Rows a date", "Drift against the state"} <= set(_pictures(page))
    assert "raw 900, train 880, quarantined 20" in page
    assert page.index("above_max:age") < page.index("duplicate_key")
    assert "<th>shop=a</th><td>9,000</td><td>0.8090</td>" in page
    assert re.search(r"0\.789000 <span class='soft'>± 0\.\d+</span>", page)
    # What is not defined has no bar, and no colour.
    assert "<th>shop=b</th><td>3,345</td><td>nan</td><td class='bar'></td><td class=''>" in page


def test_dates_stand_where_dates_belong() -> None:
    dates = [f"2013-01-{day:02}" for day in range(1, 32)]
    read = RowsRead(days={ds: {"raw": 900} for ds in dates}, drift={"age": [0.1] * 31})
    pictures = _pictures(render(_report(read=read)))

    for title in ("Rows a date", "Drift against the state"):
        texts = {text.text: float(text.get("x", "0")) for text in pictures[title].iter("text")}
        shown = [name for name in texts if name and name in dates]
        assert shown == [dates[0], dates[15], dates[30]]
        assert sorted(texts[name] for name in shown) == [texts[name] for name in shown]
        assert not {"5", "10", "15", "20"} & set(texts)


def test_passwords_in_settings_are_not_shown() -> None:
    tree = {"mlflow": {"tracking_uri": "postgresql://anna:topsecret@db/mlflow"}, "lake": "a@b"}
    page = render(_report(settings=json.dumps(tree)))
    assert "postgresql://[user]@db/mlflow" in page and "a@b" in page
    assert "topsecret" not in page


def test_settings_are_a_folded_table_with_a_line_each() -> None:
    tree = {
        "lake": "lake",
        "train": {"epochs": 3, "hidden": [64, 32], "seed": None},
        "gate": {"rules": [{"metric": "auc"}, {"metric": "log_loss"}]},
    }
    page = render(_report(settings=json.dumps(tree)))

    _, folded = page.split("<details>")
    table = folded.split("</details>")[0]
    assert re.findall("<th>(.*?)</th><td><code>(.*?)</code>", table) == [
        ("lake", "lake"),
        ("train.epochs", "3"),
        ("train.hidden", "[64, 32]"),
        ("train.seed", "null"),
        ("gate.rules[1].metric", "auc"),
        ("gate.rules[2].metric", "log_loss"),
    ]


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = render(_report())

    assert not re.search(r"https?:|<script|<link|src=|@import|url\(", page)
    assert 'name="viewport"' in page


def test_champion_and_verdict_stand_beside_the_model() -> None:
    challenger, champion = _metrics(0.789), _metrics(0.771)
    rule = GateRule(metric="auc", min_value=0.75, min_gain=0.03)
    verdict = decide(GateSettings(rules=(rule,)), challenger, champion)

    page = render(_report(champion=champion, verdict=verdict))

    assert "Gate: refused" in page
    assert "found +0.018" in page
    assert "<td class='yes'>+0.018000</td>" in page
    assert len(_pictures(page)["ROC, area"].findall("polyline")) == 3


def test_texts_are_escaped() -> None:
    evil = "<script>'\""
    read = RowsRead(days={evil: {"raw": 9, evil: 9}}, reasons={evil: 1}, drift={evil: [0.1]})
    metrics = replace(_metrics(0.7), slices={Group((evil,), (evil,)): _metrics(0.7)})
    verdict = Verdict(False, (evil,), (evil, f"not {evil}"))
    page = render(
        _report(
            title="<b>&",
            subtitle=evil,
            metrics=metrics,
            facts={evil: evil},
            settings=json.dumps({evil: evil}),
            read=read,
            verdict=verdict,
        )
    )

    assert "<h1>&lt;b&gt;&amp;</h1>" in page
    assert "<script" not in page
    # Each place shows it: nothing is lost, or escaped twice.
    assert page.count("&lt;script&gt;") >= 10
    assert "&amp;lt;" not in page


@pytest.mark.parametrize(("task", "metric"), [("regression", "rmse"), ("multiclass", "accuracy")])
def test_slices_show_a_metric_that_their_task_has(task: Task, metric: str) -> None:
    group = Metrics(task, 10, 10.0, {metric: 0.25, "log_loss": 1.0})
    metrics = replace(group, slices={Group(("shop",), ("a",)): group})

    assert "<th>shop=a</th><td>10</td><td>0.2500</td>" in render(_report(metrics=metrics))


def test_a_regression_has_its_numbers_and_no_empty_pictures() -> None:
    metrics = Metrics("regression", 10, 10.0, {"rmse": 2.5, "mae": 2.0})

    page = render(_report(metrics=metrics, curves={"val_loss": [float("nan"), 1.0]}))

    assert set(_pictures(page)) == {"Training: loss"}
    assert "2.5000" in page
    assert "nan" not in "".join(re.findall("<svg.*?</svg>", page))


@pytest.mark.parametrize("high", [1.0, 0.15, 3e-7, 12_345.0])
def test_ticks_are_few_and_within_the_axis(high: float) -> None:
    svg = Chart((0, high), (0, high), "x", "y").svg()

    labels = [float(text) for text in re.findall(r">(-?[\d.e+-]+)</text>", svg)]
    assert 6 <= len(labels) <= 14
    assert all(0 <= label <= high for label in labels)
    assert np.ptp(labels) >= high * 0.6


def test_written_where_asked(tmp_path: Path) -> None:
    place = tmp_path / "reports" / "evaluate-1.html"

    write_report(str(place), _report())

    assert place.read_text(encoding="utf-8") == render(_report())
