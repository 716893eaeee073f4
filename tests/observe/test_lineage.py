"""OpenLineage events: what the specification requires, and what was read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from jobs.base.errors import DataRefused
from jobs.settings.settings import Settings
from tests.observe.runs import json_lines, run_of, settings_of
from tests.observe.servers import Server, serving

# What OpenLineage 2-0-2 requires of a RunEvent, and of the facets used here, in our words; the
# specification is at https://openlineage.io/spec/2-0-2/OpenLineage.json.
_TEXT = {"type": "string", "minLength": 1}
_TIME, _UUID = {"type": "string", "format": "date-time"}, {"type": "string", "format": "uuid"}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    properties = {**required, **optional}
    return {"type": "object", "required": sorted(required), "properties": properties}


def _facets(**known: dict[str, Any]) -> dict[str, Any]:
    base = {"_producer": {"type": "string", "format": "uri"}, "_schemaURL": {"pattern": "^https:"}}
    kinds = {name: _object({**base, **required}) for name, required in known.items()}
    return {"type": "object", "properties": kinds, "additionalProperties": _object(base)}


_NAMED = {"namespace": _TEXT, "name": _TEXT}
_VERSION = _facets(version={"datasetVersion": _TEXT})
RUN_EVENT = _object(
    {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "eventTime": _TIME,
        "producer": {"type": "string", "format": "uri"},
        "schemaURL": {"type": "string", "format": "uri"},
        "run": _object(
            {"runId": _UUID},
            facets=_facets(
                parent={"run": _object({"runId": _UUID}), "job": _object(_NAMED)},
                nominalTime={"nominalStartTime": _TIME, "nominalEndTime": _TIME},
                errorMessage={"message": _TEXT, "programmingLanguage": _TEXT},
            ),
        ),
        "job": _object(
            _NAMED, facets=_facets(jobType={"processingType": _TEXT, "integration": _TEXT})
        ),
        "inputs": {"type": "array", "items": _object(_NAMED, facets=_VERSION)},
        "outputs": {
            "type": "array",
            "items": _object(
                _NAMED,
                facets=_VERSION,
                outputFacets=_facets(outputStatistics={"rowCount": {"type": "integer"}}),
            ),
        },
    }
)


def valid(event: dict[str, Any]) -> dict[str, Any]:
    Draft202012Validator(RUN_EVENT, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
        event
    )
    return event


def a_night(settings: Settings) -> None:
    with run_of(settings, "nightly", dates=["2024-01-02"]):
        with run_of(settings, "etl", dates=["2024-01-02"]) as etl:
            etl.done(
                counts={"raw": 100, "train": 80, "test": 13, "quarantined": 7},
                versions={"examples": "5"},
            )
        with run_of(settings, "train") as train:
            train.done(counts={"rows": 80}, versions={"model": "2", "examples": "5"})
        with run_of(settings, "score", dates=["2024-01-02"]):
            raise DataRefused("all rows are refused")


def test_a_nights_events_say_who_read_and_wrote_what(tmp_path: Path) -> None:
    with pytest.raises(DataRefused):
        a_night(settings_of(tmp_path, lineage_file="lineage.jsonl", lineage_namespace="prod"))
    events = [valid(event) for event in json_lines(tmp_path / "lineage.jsonl")]
    assert [(event["job"]["name"], event["eventType"]) for event in events] == [
        ("visits.nightly", "START"),
        ("visits.etl", "START"),
        ("visits.etl", "COMPLETE"),
        ("visits.train", "START"),
        ("visits.train", "COMPLETE"),
        ("visits.score", "START"),
        ("visits.score", "FAIL"),
        ("visits.nightly", "FAIL"),
    ]
    night, etl, train, failed = events[0], events[2], events[4], events[6]
    assert events[1]["run"]["runId"] == etl["run"]["runId"] != train["run"]["runId"]
    parent = etl["run"]["facets"]["parent"]
    assert parent["run"]["runId"] == night["run"]["runId"]
    assert parent["job"] == {"namespace": "prod", "name": "visits.nightly"}
    assert etl["run"]["facets"]["nominalTime"]["nominalEndTime"] == "2024-01-03T00:00:00Z"

    assert [(one["namespace"], one["name"]) for one in etl["inputs"]] == [
        ("file", f"{tmp_path}/raw/2024-01-02.csv"),
        ("s3://raw", "shops.csv"),
    ]
    examples, quarantine = etl["outputs"]
    assert examples["name"] == f"{tmp_path}/lake/visits/examples"
    assert examples["facets"]["version"]["datasetVersion"] == "5"
    assert examples["outputFacets"]["outputStatistics"]["rowCount"] == 93
    assert quarantine["outputFacets"]["outputStatistics"]["rowCount"] == 7

    # The same table is the same data set, whoever reads or writes it.
    assert train["inputs"] == [{key: examples[key] for key in ("namespace", "name", "facets")}]
    assert train["outputs"][0]["facets"]["version"]["datasetVersion"] == "2"
    assert failed["run"]["facets"]["errorMessage"]["message"] == "all rows are refused"


def test_events_are_posted_with_the_key_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "key-of-the-tests")
    with serving(Server(status=201)) as server:
        url = f"{server.url}/api/v1/lineage"
        with pytest.raises(DataRefused):
            a_night(settings_of(tmp_path, lineage_url=url))
    assert {request.path for request in server.requests} == {"/api/v1/lineage"}
    keys = {request.headers["Authorization"] for request in server.requests}
    assert keys == {"Bearer key-of-the-tests"}
    assert len([valid(json.loads(request.body)) for request in server.requests]) == 8
    assert "observer" not in caplog.text
