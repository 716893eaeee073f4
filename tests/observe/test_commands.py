"""The commands are observed: what the ETL did, and why a date was refused."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import SparkSession

from jobs.main import main
from tests.builders.visits import Raw, rows_of
from tests.observe.runs import json_lines
from tests.observe.servers import metrics_of

DS = "2024-01-01"


def test_a_command_tells_its_observers(tmp_path: Path, spark: SparkSession) -> None:
    observe = {
        "json_log": "night.jsonl",
        "prometheus_folder": "metrics",
        "lineage_file": "lineage.jsonl",
    }
    raw = Raw(tmp_path, settings={"observe": observe}).add(rows_of(DS, 40))
    raw.add([f"{DS},999999,NOT A SHOP,1.0,30,1"]).write()
    etl = ["etl", "--config", str(raw.config), "--date", DS]
    assert main([*etl, "--set", "etl.max_quarantined_fraction=0.5"]) == 0
    assert main([*etl, "--set", "etl.max_quarantined_fraction=0.01"]) == 3

    events = [line for line in json_lines(tmp_path / "night.jsonl") if "event" in line]
    assert [line["event"] for line in events] == ["start", "done", "start", "fail"]
    assert events[1]["counts"]["raw"] == 41
    assert events[1]["counts"]["quarantined"] == 1
    assert events[1]["run"] == events[0]["run"] != events[2]["run"]
    assert "pattern:shop" in events[3]["message"]

    done, failed = json_lines(tmp_path / "lineage.jsonl")[1::2]
    assert done["outputs"][0]["name"] == f"{raw.lake}/visits/examples"
    assert done["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 40
    said = failed["run"]["facets"]["errorMessage"]["message"]
    assert events[3]["message"] == f"etl failed: {said}"

    text = "".join(path.read_text() for path in (tmp_path / "metrics").iterdir())
    metrics = metrics_of(text)
    assert metrics["millstream_rows"]["visits", "etl", "out"] == 40
    assert metrics["millstream_run_exit_code"]["visits", "etl"] == 3
