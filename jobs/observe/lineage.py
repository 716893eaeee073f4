"""Runs as OpenLineage events (spec 2-0-2): START, then COMPLETE or FAIL, with what was read and
written. Plain JSON: the official client would bring an HTTP stack of its own for six facets.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jobs.observe.event import Event, Subject
from jobs.observe.http import address, post_json

PRODUCER = "urn:millstream"
_SPEC = "https://openlineage.io/spec"
_CORE = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs"
_TYPES = {"start": "START", "done": "COMPLETE", "fail": "FAIL"}
_TABLES_READ = {"train": ("examples",), "evaluate": ("examples", "models"), "score": ("models",)}
_TABLES_WRITTEN = {
    "etl": ("examples", "quarantine"),
    "train": ("models",),
    "score": ("predictions", "quarantine"),
}
_READ_RAW = ("etl", "score")
# Which counts are a table's rows.
_ROWS = {
    "examples": ("train", "val", "test", "all"),
    "predictions": ("predicted",),
    "quarantine": ("quarantined",),
}


class LineageFile:
    """Appends events to a file, a JSON a line."""

    name = "lineage_file"

    def __init__(self, path: str, namespace: str) -> None:
        self._path, self._namespace = Path(path), namespace

    def tell(self, event: Event) -> None:
        if event.kind in _TYPES:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps(run_event(event, self._namespace), ensure_ascii=False)
            # One write, so that runs at the same time may share the file.
            with self._path.open("ab", buffering=0) as file:
                file.write(f"{line}\n".encode())


class LineageServer:
    """Posts events to an endpoint that takes them, such as Marquez or DataHub."""

    name = "lineage_url"

    def __init__(
        self, url: str | None, environment: str | None, namespace: str, timeout_s: float
    ) -> None:
        self._url, self._environment = url, environment
        self._namespace, self._timeout_s = namespace, timeout_s

    def tell(self, event: Event) -> None:
        if event.kind in _TYPES:
            # The name that OpenLineage's own clients read.
            key = os.environ.get("OPENLINEAGE_API_KEY")
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            url = address(self._url, self._environment)
            post_json(url, run_event(event, self._namespace), self._timeout_s, headers)


def run_event(event: Event, namespace: str) -> dict[str, Any]:
    """The event as OpenLineage's RunEvent."""
    subject = event.subject
    return {
        "eventType": _TYPES[event.kind],
        "eventTime": event.time.isoformat(timespec="milliseconds"),
        "producer": PRODUCER,
        "schemaURL": f"{_CORE}/RunEvent",
        "run": {"runId": run_uuid(subject.run), "facets": _run_facets(event, namespace)},
        "job": {**_job(subject, namespace), "facets": {"jobType": _job_type()}},
        "inputs": _inputs(event),
        "outputs": _outputs(event),
    }


def run_uuid(run: str) -> str:
    """OpenLineage's id of a run, always the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PRODUCER}:{run}"))


def _job(subject: Subject, namespace: str) -> dict[str, Any]:
    return {"namespace": namespace, "name": f"{subject.dataset}.{subject.stage}"}


def _facet(schema: str, **values: Any) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": schema, **values}


def _job_type() -> dict[str, Any]:
    schema = f"{_SPEC}/facets/2-0-4/JobTypeJobFacet.json#/$defs/JobTypeJobFacet"
    return _facet(schema, processingType="BATCH", integration="MILLSTREAM", jobType="JOB")


def _run_facets(event: Event, namespace: str) -> dict[str, Any]:
    subject = event.subject
    facets = {
        "millstream_run": _facet(
            f"{_CORE}/RunFacet", run=subject.run, stage=subject.stage, exitCode=event.exit_code
        )
    }
    if subject.dates:
        end = dt.date.fromisoformat(subject.dates[-1]) + dt.timedelta(1)
        facets["nominalTime"] = _facet(
            f"{_SPEC}/facets/1-0-1/NominalTimeRunFacet.json#/$defs/NominalTimeRunFacet",
            nominalStartTime=f"{subject.dates[0]}T00:00:00Z",
            nominalEndTime=f"{end}T00:00:00Z",
        )
    if subject.parent is not None:
        facets["parent"] = _facet(
            f"{_SPEC}/facets/1-2-0/ParentRunFacet.json#/$defs/ParentRunFacet",
            run={"runId": run_uuid(subject.parent.run)},
            job=_job(subject.parent, namespace),
        )
    if event.kind == "fail":
        facets["errorMessage"] = _facet(
            f"{_SPEC}/facets/1-0-1/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet",
            message=event.message,
            programmingLanguage="PYTHON",
        )
    return facets


def _inputs(event: Event) -> list[dict[str, Any]]:
    subject = event.subject
    raw = [
        _place(path.replace("{ds}", subject.ds) if len(subject.dates) == 1 else path)
        for path in subject.sources.values()
    ]
    tables = [_table(event, name) for name in _TABLES_READ.get(subject.stage, ())]
    return [*(raw if subject.stage in _READ_RAW else []), *tables]


def _outputs(event: Event) -> list[dict[str, Any]]:
    found = []
    for name in _TABLES_WRITTEN.get(event.subject.stage, ()):
        table = _table(event, name)
        rows = [event.counts[key] for key in _ROWS.get(name, ()) if key in event.counts]
        if rows:
            schema = (
                f"{_SPEC}/facets/1-0-2/OutputStatisticsOutputDatasetFacet.json"
                "#/$defs/OutputStatisticsOutputDatasetFacet"
            )
            table["outputFacets"] = {"outputStatistics": _facet(schema, rowCount=sum(rows))}
        found.append(table)
    return found


def _table(event: Event, name: str) -> dict[str, Any]:
    """A table or folder of the lake, with its version where the run said which."""
    table = _place(f"{event.subject.lake_url}/{name}")
    version = event.versions.get("model" if name == "models" else name)
    if version is not None:
        schema = (
            f"{_SPEC}/facets/1-0-1/DatasetVersionDatasetFacet.json"
            "#/$defs/DatasetVersionDatasetFacet"
        )
        table["facets"] = {"version": _facet(schema, datasetVersion=version)}
    return table


def _place(url: str) -> dict[str, Any]:
    """A path or URL by OpenLineage's naming: store and bucket apart from the path."""
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        return {"namespace": "file", "name": parts.path}
    return {"namespace": f"{parts.scheme}://{parts.netloc}", "name": parts.path.lstrip("/")}
