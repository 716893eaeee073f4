"""Other projects' own clients, as they are, get from the server what Spark's scoring says.

Triton's over HTTP and gRPC, and MLflow's of its scoring servers, in an environment that is made
once, in the user's cache, by tools/world.sh.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.etl import job as etl
from jobs.evaluate import job as evaluate
from jobs.evaluate import score
from jobs.lake.ledger import new_run_id
from jobs.models.build import Model
from jobs.registry.registry import Registry
from jobs.rows.base.names import RAW, REASONS, SOURCE_FILE
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from tests.builders.models import lake_of, register_model
from tests.builders.photos import DAY, encoded, pixels, write_photos
from tests.builders.processes import ROOT
from tests.builders.servers import serving
from tests.builders.worlds import interpreter
from tools import fetch_flights

pytestmark = pytest.mark.slow

CLIENTS = (
    "tritonclient http",
    "tritonclient http, typed",
    "tritonclient grpc",
    "tritonclient grpc, typed",
    "mlflow",
)
FLIGHTS_ROWS = 10_000
# Of each hundredth flight one value is another.
WRONG = (
    ("origin", "BOS"),
    ("distance", "far"),
    ("carrier", "NA"),
    ("hour", "24"),
    ("tailnum", "n1?"),
    ("dest", "ABCD"),
    ("distance", ""),
    ("sched_dep_time", "2400"),
    ("time_hour", "yesterday"),
    ("flight", "1.5"),
)


@dataclass(frozen=True)
class Outcomes:
    """What Spark's scoring says of each raw row, by what is known of it everywhere."""

    scores: dict[object, float]
    reasons: dict[object, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What the clients ask, of which server.

    Attributes:
        rows: in columns, a text, bytes or null each.
        keys: of the rows, in `expected`.
    """

    config: Path
    parents: str
    model: str
    rows: Mapping[str, Sequence[str | bytes | None]]
    keys: Sequence[object]
    expected: Outcomes


def answers(asked: Asked, folder: Path) -> dict[str, dict[str, Any]]:
    """By each client: the rows' scores and reasons."""
    columns = {name: [jsonable(value) for value in of] for name, of in asked.rows.items()}
    (folder / "rows.json").write_text(json.dumps(columns), encoding="utf-8")
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}
    script = str(ROOT / "tests" / "builders" / "serve_clients.py")
    with serving(asked.config, folder / "log", asked.parents) as server:
        ports = [str(server.port), str(server.grpc_port)]
        files = [str(folder / "rows.json"), str(folder / "found.json")]
        command = [interpreter("clients"), "-I", script, *ports, asked.model, *files]
        subprocess.run(command, env=environment, check=True)
    found: dict[str, dict[str, Any]] = json.loads((folder / "found.json").read_text("utf-8"))
    return found


def jsonable(value: str | bytes | None) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def check(asked: Asked, found: Mapping[str, dict[str, Any]]) -> None:
    expected = asked.expected
    assert found.keys() == set(CLIENTS)
    assert len(set(asked.keys)) == len(asked.keys) == len(expected.scores) + len(expected.reasons)
    for client, own in found.items():
        furthest = 0.0
        for key, given, why in zip(asked.keys, own["scores"], own["reasons"], strict=True):
            assert why == expected.reasons.get(key, []), (client, key)
            assert (given is None) == bool(why), (client, key)
            if given is not None:
                apart = abs(given - expected.scores[key])
                assert apart <= 1e-6, (client, key)
                furthest = max(furthest, apart)
        print(
            f"{client}: {len(expected.scores)} scores at most {furthest:.1e} apart, "
            f"{len(expected.reasons)} refused alike, {own['seconds']:.1f} s"
        )


def promote(settings: Settings, spark: SparkSession, as_of: str) -> None:
    """A model of random weights becomes champion."""
    model = register_model(settings, as_of, change=smaller)
    evaluate.run(settings, spark, run_id=new_run_id("evaluate"), model=model)
    Registry(settings, lake_of(settings)).promote(model, new_run_id("promote"))


def smaller(model: Model) -> None:
    """Others score nothing but 0 and 1, and lose in float32 what no trained ones do."""
    for weights in model.parameters():
        weights.mul_(0.2)


# Flights, with the demo's whole declaration


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Asked:
    folder = tmp_path_factory.mktemp("flights")
    shutil.copytree(ROOT / "conf", folder / "conf")
    raw = folder / "data" / "raw"
    fetch_flights.main(raw)
    header, *lines = (raw / "flights.csv").read_text("utf-8").splitlines()
    rows = [dict(zip(header.split(","), line, strict=True)) for line in csv.reader(lines[:13_000])]
    first = next(n for n, row in enumerate(rows) if row["day"] == "3")
    night = rows[first : first + FLIGHTS_ROWS]
    for number, row in enumerate(night[::100]):
        name, value = WRONG[number % len(WRONG)]
        row[name] = value
    texts = [",".join(row.values()) for row in (*rows[:first], *night)]
    (raw / "flights.csv").write_text("\n".join([header, *texts]) + "\n", encoding="utf-8")
    config = folder / "conf" / "flights.yaml"
    settings = load_settings(config)
    etl.run(settings, spark, run_id=new_run_id("etl"), dates=["2013-01-01", "2013-01-02"])
    promote(settings, spark, "2013-01-02")
    last = int(night[-1]["day"])
    dates = [f"2013-01-{day:02}" for day in range(3, last + 1)]
    score.run(settings, spark, run_id=new_run_id("score"), dates=dates)
    parents = f"serve.parents={{weather: {raw / 'weather.csv'}, planes: {raw / 'planes.csv'}}}"
    columns = {name: [row[name] for row in night] for name in night[0]}
    keys = [key_of(",".join(row.values()), row) for row in night]
    return Asked(config, parents, "flights", columns, keys, of_flights(settings))


def key_of(line: str, row: Mapping[str, str]) -> object:
    """A flight's, or the whole line where it is refused."""
    wrong = any(row[name] == value for name, value in WRONG)
    return line if wrong else (row["time_hour"], row["carrier"], int(row["flight"]))


def of_flights(settings: Settings) -> Outcomes:
    lake = lake_of(settings)
    scores = {
        (f"{row['time_hour']:%Y-%m-%dT%H:%M:%SZ}", row["carrier"], row["flight"]): row["score"]
        for row in lake.table("predictions").read_arrow().to_pylist()
    }
    refused = lake.table("quarantine").read_arrow().to_pylist()
    return Outcomes(
        dict(scores), {row[RAW]: row[REASONS] for row in refused if row["stage"] == "score"}
    )


def test_ten_thousand_flights(flights: Asked, tmp_path: Path) -> None:
    assert len(flights.expected.reasons) == 100
    assert len(Counter(map(tuple, flights.expected.reasons.values()))) >= 9
    assert max(flights.expected.scores.values()) - min(flights.expected.scores.values()) > 0.1
    check(flights, answers(flights, tmp_path))


# A declaration with lists, an image and nulls


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Asked:
    sound = {f"{number:03}.jpg": encoded(pixels(number)) for number in range(40)}
    bad = {
        "cut.jpg": encoded(pixels(100))[:-20],
        "text.jpg": b"no image at all",
        "large.jpg": encoded(pixels(102, (7, 5, 3))),
        "png.jpg": encoded(pixels(103), ".png"),
    }
    files = {**sound, **bad}
    labels = {name: number % 3 for number, name in enumerate(files)}
    raw = write_photos(tmp_path_factory.mktemp("photos") / "raw", files, labels, "ALBUM")
    settings = load_settings(raw.config)
    etl.run(settings, spark, run_id=new_run_id("etl"), dates=[DAY])
    promote(settings, spark, DAY)
    score.run(settings, spark, run_id=new_run_id("score"), dates=[DAY])
    lake = lake_of(settings)
    predictions = lake.table("predictions").read_arrow().to_pylist()
    refused = lake.table("quarantine").read_arrow().to_pylist()
    expected = Outcomes(
        {row["name"]: row["score"] for row in predictions},
        {Path(r[SOURCE_FILE]).name: r[REASONS] for r in refused if r["stage"] == "score"},
    )
    parents = f"serve.parents={{labels: {raw.folder / 'labels.csv'}}}"
    columns = {"file": list(files), "content": list(files.values())}
    return Asked(raw.config, parents, "photos", columns, list(files), expected)


def test_lists_images_and_nulls(photos: Asked, tmp_path: Path) -> None:
    assert len(photos.expected.reasons) == 4
    assert len(set(photos.expected.scores.values())) > 20
    check(photos, answers(photos, tmp_path))
