"""The ETL against rules written by hand: plain Python over the raw lines, with none of its code."""

from __future__ import annotations

import csv
import datetime as dt
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pyspark.sql import SparkSession

from jobs.etl import job
from jobs.lake.lake import Lake
from jobs.settings.load import load_settings
from schemas.flights import FLIGHTS
from tests.builders.by_hand import Row, check, place, refuse_duplicates
from tests.builders.flights import land
from tests.builders.lines import LINES, lines_of, write_lines
from tests.builders.visits import POISON, VISITS, Raw, rows_of


def whole(text: str, null: str, bits: int = 32) -> int | None:
    number = int(text) if text != null and re.fullmatch(r"[+-]?[0-9]+", text) else None
    return number if number is not None and -(2 ** (bits - 1)) <= number < 2 ** (bits - 1) else None


def real(text: str, null: str) -> float | None:
    if text == null or not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?", text):
        return None
    return float(text) if math.isfinite(float(text)) else None


def visit_of(line: str, shops: dict[str, float]) -> Row:
    cells = line.split(",")
    day, visit, shop, amount, age, bought = cells[:6]
    dated = re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", day) is not None
    row = Row(line, day if dated else "undated")
    reasons = ["malformed"] if len(cells) > 6 else []
    if not dated:
        reasons += ["null:day" if day == "NA" else "unparsable:day", "undated"]
    number, x, years = whole(visit, "NA"), real(amount, "NA"), whole(age, "NA")
    if number is None:
        reasons.append("null:visit" if visit == "NA" else "unparsable:visit")
    if shop != "NA" and not re.fullmatch("[a-z0-9_]+", shop):
        reasons.append("pattern:shop")
    reasons += [
        f"unparsable:{n}"
        for n, t, v in (("amount", amount, x), ("age", age, years))
        if t != "NA" and v is None
    ]
    if x is not None and x < -1e9:
        reasons.append("below_min:amount")
    if x is not None and x <= -1:
        reasons.append("not_finite:amount_log")
    if years is not None and not 0 <= years <= 120:
        reasons.append("below_min:age" if years < 0 else "above_max:age")
    label = whole(bought, "NA")
    if label is None:
        reasons += [*(["unparsable:bought"] if bought != "NA" else []), "label_absent"]
    elif label not in (0, 1):
        reasons.append("not_allowed:bought")
    row.reasons = sorted(reasons)
    if not reasons:
        row.key, row.label = (number,), label
        row.numbers = {
            "amount_log": None if x is None else min(max(math.log1p(x), 0), 20),
            "age_years": years,
            "shop_size": shops.get(shop),
        }
        group = None if years is None else str(years // 10)
        row.texts = {"shop_id": None if shop == "NA" else shop, "age_group": group}
    return row


def line_of(line: str, ds: str) -> Row:
    cells = line.split("\t")
    label, count, user, a, b = cells[:5]
    reasons = ["malformed"] if len(cells) > 5 else []
    clicked, n, person = whole(label, ""), whole(count, ""), whole(user, "", bits=64)
    if clicked is None:
        reasons += [*(["unparsable:label"] if label else []), "label_absent"]
    elif clicked not in (0, 1):
        reasons.append("not_allowed:label")
    reasons += [
        f"unparsable:{name}"
        for name, text, value in (("count", count, n), ("user", user, person))
        if text and value is None
    ]
    if n is not None and n <= -1:
        reasons.append("not_finite:count_log")
    reasons += [
        f"pattern:{name}"
        for name, text in (("a", a), ("b", b))
        if text and not re.fullmatch("[0-9a-f]{4}", text)
    ]
    row = Row(line, ds, sorted(reasons))
    if not reasons:
        row.label = clicked
        row.numbers = {"count_log": None if n is None else math.log1p(n)}
        person_text = None if person is None else str(person)
        row.texts = {"user_id": person_text, "a_id": a or None, "b_id": b or None}
    return row


def flight_of(line: str, weather: dict[Any, Any], planes: dict[str, Any]) -> Row:
    (cells,) = csv.DictReader([line], fieldnames=_FLIGHT)
    day = dt.date(*(int(cells[name]) for name in ("year", "month", "day")))
    row = Row(line, str(day))
    reasons, delay = [], real(cells["arr_delay"], "NA")
    if cells["origin"] not in ("EWR", "JFK", "LGA"):
        reasons.append("not_allowed:origin")
    if cells["carrier"] == "NA":
        reasons.append("null:carrier")
    if delay is None:
        reasons.append("label_absent")
    row.reasons = sorted(reasons)
    if reasons:
        return row
    hour, origin, carrier = int(cells["hour"]), cells["origin"], cells["carrier"]
    when = dt.datetime.fromisoformat(cells["time_hour"]).replace(tzinfo=None)
    found = weather.get((origin, cells["time_hour"]), {})
    plane = planes.get(cells["tailnum"], {})
    seats, rain = real(plane.get("seats", "NA"), "NA"), real(found.get("precip", "NA"), "NA")
    arrival = int(cells["sched_arr_time"])
    row.key, row.label = (when, carrier, int(cells["flight"])), float((delay or 0) > 15)
    row.numbers = {
        "departure_minutes": hour * 60 + int(cells["minute"]),
        "arrival_minutes": arrival // 100 * 60 + arrival % 100,
        "distance_log": math.log1p(float(cells["distance"])),
        "temp": real(found.get("temp", "NA"), "NA"),
        "visibility": real(found.get("visib", "NA"), "NA"),
        "precipitation_log": None if rain is None else math.log1p(rain * 100),
        "plane_year": whole(plane.get("year", "NA"), "NA"),
        "seats_log": None if seats is None else math.log1p(seats),
    }
    row.texts = {
        "airline": carrier,
        "destination": cells["dest"],
        "departure_hour": str(hour),
        "weekday": str(day.isoweekday() % 7 + 1),
        "plane": None if cells["tailnum"] == "NA" else cells["tailnum"],
        "flight_number": carrier + str(int(cells["flight"])),
        "airport_day_part": f"{origin}|{day}|{hour // 3}",
    }
    return row


_FLIGHT = [column.name for column in FLIGHTS.sources[0].columns]


DATES = ["2024-01-01", "2024-01-02", "2024-01-03"]
ALL = ["etl.max_quarantined_fraction=1"]


def hostile(chance: random.Random, line: str, mark: str, texts: Sequence[Sequence[str]]) -> str:
    """A line with some cells of others."""
    cells = line.split(mark)
    for place_ in chance.sample(range(len(cells)), chance.choice([0, 0, 1, 1, 2, 3])):
        cells[place_] = chance.choice(texts[place_])
    return mark.join(cells)


def test_visits(spark: SparkSession, tmp_path: Path) -> None:
    chance = random.Random(5)
    texts = (
        [*DATES, *DATES, "never", "NA"],
        ["NA", "x1", "7", "8", "99999999999"],
        ["NA", "A?", "a", "b", "rare", "z_9"],
        ["NA", "many", "-1.0", "-0.5", "1e3", "-2e9", "1e400", "0"],
        ["NA", "12.5", "-4", "130", "0", "120", "007"],
        ["NA", "2", "yes", "0", "1"],
    )
    sound = [line for ds in DATES for line in rows_of(ds, 200)]
    lines = [line for line, _ in POISON]
    lines += [hostile(chance, line, ",", texts) for line in (*sound, *sound[::3])]
    raw = Raw(tmp_path).add(lines).write()
    result = job.run(load_settings(raw.config, ALL), spark, run_id="etl-1", dates=DATES)
    shops = {shop: float(size) for size, shop in enumerate("abcd", start=1)}
    rows = [visit_of(line, shops) for line in lines]
    refuse_duplicates(rows)
    place(spark, [row for row in rows if not row.reasons], ["int"])
    assert len({tuple(row.reasons) for row in rows}) > 25
    check(VISITS, result, Lake(str(raw.lake), "visits"), rows)


def test_lines(spark: SparkSession, tmp_path: Path) -> None:
    chance = random.Random(6)
    numbers = ["", "x", "0", "-1", "1.5", "5"]
    texts = (["", "2", "yes", "1"], numbers, numbers, ["", "0A1f", "abcd"], ["", "12345", "0001"])
    rows = []
    for day, ds in enumerate(DATES):
        lines = [hostile(chance, line, "\t", texts) for line in lines_of(150 + day) * 2]
        lines += [f"{line}\tsurplus" for line in lines_of(3)]
        settings = load_settings(write_lines(tmp_path, ds, [lines[::2], lines[1::2]]))
        rows += [line_of(line, ds) for line in lines]
    result = job.run(settings, spark, run_id="etl-1", dates=DATES)
    place(spark, [row for row in rows if not row.reasons], ["string"])
    check(LINES, result, Lake(settings.lake_url, "lines"), rows)


def test_flights_with_their_parents(spark: SparkSession, tmp_path: Path) -> None:
    days = ["2013-01-01", "2013-01-02"]
    land(tmp_path, days, 700)
    shipped = next(p for p in (Path("data/raw"), tmp_path / "shipped") if p.exists())
    rows, tables = [], {}
    for name, key in (("weather", ("origin", "time_hour")), ("planes", ("tailnum",))):
        text = (shipped / f"{name}.csv").read_text()
        (tmp_path / f"{name}.csv").write_text(text)
        tables[name] = {tuple(r[k] for k in key): r for r in csv.DictReader(text.splitlines())}
    planes = {tail: plane for (tail,), plane in tables["planes"].items()}
    for ds in days:
        file = tmp_path / "raw" / ds / "flights.csv"
        header, *lines = file.read_text().splitlines()
        lines[5:8] = [
            line.replace(",LGA,", ",XXX,").replace(",EWR,", ",XXX,") for line in lines[5:8]
        ]
        lines[9] = re.sub(",[0-9A-Z]{2},", ",NA,", lines[9], count=1)
        lines += lines[20:30]
        file.write_text("\n".join([header, *lines]) + "\n")
        rows += [flight_of(line, tables["weather"], planes) for line in lines]
    sources = {"flights": "raw/{ds}/flights.csv", "weather": "weather.csv", "planes": "planes.csv"}
    tree = {"schema": "schemas.flights:FLIGHTS", "lake": "lake", "etl": {"sources": sources}}
    (tmp_path / "flights.yaml").write_text(yaml.safe_dump(tree))
    settings = load_settings(tmp_path / "flights.yaml", ALL)
    result = job.run(settings, spark, run_id="etl-1", dates=days)
    refuse_duplicates(rows)
    place(spark, [row for row in rows if not row.reasons], ["timestamp", "string", "int"])
    assert sum(row.numbers.get("temp") is not None for row in rows) > 1_000
    check(FLIGHTS, result, Lake(settings.lake_url, "flights"), rows)
