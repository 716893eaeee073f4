"""A night from raw files to predictions; a second run of it changes nothing but the ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.lake.ledger import read_ledger
from jobs.main import main
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from tests.builders.lakes import lake_of
from tests.builders.visits import Raw, rows_of
from tests.observe.runs import json_lines
from tests.observe.servers import Metrics, metrics_of

DATES = ["2024-01-01", "2024-01-02"]
TABLES = ("examples", "quarantine", "contributions", "id_log", "predictions")


def nightly(raw: Raw, ds: str, *overrides: str) -> int:
    more = [part for override in overrides for part in ("--set", override)]
    return main(["nightly", "--config", str(raw.config), "--date", ds, "--quiet", *more])


def versions(raw: Raw) -> dict[str, int]:
    return {name: lake_of(raw).table(name).version() for name in TABLES}  # type: ignore[arg-type]


def champion(raw: Raw) -> str:
    settings = load_settings(raw.config)
    found = Registry(settings, lake_of(raw)).champion()
    assert found is not None
    return found.version


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    observe = {"lineage_file": "lineage.jsonl", "prometheus_folder": "metrics"}
    raw = Raw(tmp_path_factory.mktemp("nights"), settings={"observe": observe})
    raw.add(line for ds in DATES for line in rows_of(ds, 300)).write()
    assert nightly(raw, DATES[0]) == 0
    return raw


def test_a_night_promotes_its_model_and_scores_with_it(raw: Raw) -> None:
    assert champion(raw) == "1"
    predictions = lake_of(raw).table("predictions").read_arrow().to_pandas()
    assert len(predictions) == predictions["visit"].nunique() == 300
    assert set(predictions["model_version"]) == {"1"}
    stages = [row["stage"] for row in read_ledger(lake_of(raw), status="done")]
    assert set(stages) >= {"etl", "train", "evaluate", "gate", "score", "nightly"}


def test_a_night_tells_its_observers_of_each_step(raw: Raw) -> None:
    events = json_lines(raw.folder / "lineage.jsonl")
    ended = [event for event in events if event["eventType"] == "COMPLETE"]
    steps = ["etl", "train", "evaluate", "gate", "score", "report", "nightly"]
    assert [event["job"]["name"] for event in ended] == [f"visits.{step}" for step in steps]
    night = ended[-1]["run"]["runId"]
    parents = {event["run"]["facets"]["parent"]["run"]["runId"] for event in ended[:-1]}
    assert parents == {night}
    metrics: Metrics = {}
    for path in (raw.folder / "metrics").iterdir():
        for name, values in metrics_of(path.read_text()).items():
            metrics.setdefault(name, {}).update(values)
    assert metrics["millstream_rows"]["visits", "score", "out"] == 300
    assert "auc" in {key[2] for key in metrics["millstream_model_metric"]}
    assert ("visits", "gate") in metrics["millstream_promotion_timestamp_seconds"]
    assert ("visits", "nightly") in metrics["millstream_last_success_timestamp_seconds"]


def test_a_finished_night_is_not_done_again(raw: Raw, capsys: pytest.CaptureFixture[str]) -> None:
    before = versions(raw), champion(raw), len(read_ledger(lake_of(raw)))
    assert nightly(raw, DATES[0]) == 0
    assert "finished before by run nightly-" in capsys.readouterr().out
    assert (versions(raw), champion(raw)) == before[:2]
    assert len(read_ledger(lake_of(raw))) == before[2] + 1
    assert read_ledger(lake_of(raw))[-1]["status"] == "unchanged"


def test_the_gate_refuses_and_the_champion_scores(
    raw: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nightly(raw, DATES[1], "gate.rules=[{metric: auc, min_value: 0.999, min_rows: 1}]") == 4
    error = capsys.readouterr().err
    assert "model version 2 was refused by the gate" in error
    assert "Traceback" not in error
    assert champion(raw) == "1"
    predictions = lake_of(raw).table("predictions").read_arrow().to_pandas()
    assert set(predictions["model_version"]) == {"1"}
    assert predictions["ds"].value_counts().to_dict() == dict.fromkeys(DATES, 300)

    before = versions(raw)
    assert nightly(raw, DATES[1], "gate.rules=[{metric: auc, min_value: 0.999, min_rows: 1}]") == 4
    assert "finished before" in capsys.readouterr().err
    assert versions(raw) == before


def test_a_bad_night_leaves_everything(raw: Raw, tmp_path: Path) -> None:
    before = versions(raw), champion(raw)
    torn = Raw(tmp_path).add(rows_of(DATES[1], 2000)).truncated_gzip()
    path = torn.folder / "visits.csv.gz"
    assert nightly(raw, DATES[1], f"etl.sources.visits={path}") == 3
    assert (versions(raw), champion(raw)) == before
