"""Writes flights as CSV: a table as `millstream init` meets them, and departures with parents.

    python -m benchmarks.make_flights table --rows 1000000 --dates 60 --out FOLDER
    python -m benchmarks.make_flights parents --rows 10000000 --out FOLDER

`table` is a file a date, `2001-01-01.csv`: a key, the date, numbers with long tails, categories
and whether the flight was late. `parents` is `flights.csv`, `weather.csv` and `planes.csv` as
`schemas.flights` declares them, with as many departures as asked on one date. About two rows in a
thousand break a rule: a key stands twice, a value does not parse or is out of range, a line lacks
values.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

FIRST_DAY, DEPARTURE_DAY = "2001-01-01", "2013-01-01"
CHUNK_ROWS = 250_000
# Shares of rows that are refused, each for its own reason.
REPEATED, STRANGE, BEYOND, SHORT = 1e-3, 5e-4, 5e-4, 1e-4
# `millstream init` reads so many rows, and would take what is beyond for what there is.
DRAFTED_ROWS = 100_000
CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX")
ORIGINS = ("EWR", "JFK", "LGA")
HOURS, PLANES, PLANES_KNOWN, DESTINATIONS = 24, 4_000, 3_300, 105
# Numbers times this are all different, and in no order that shows.
_PRIME = 2_654_435_761
# Hours that New York's winter is behind UTC.
_BEHIND_UTC = 5
_FORMAT = csv.WriteOptions(include_header=False, quoting_style="none")
Rng: TypeAlias = np.random.Generator
Numbers: TypeAlias = npt.NDArray[Any]


def write_table(out: Path, rows: int, days: list[str], seed: int) -> None:
    """`rows` rows in all, evenly over the days, a file each."""
    out.mkdir(parents=True, exist_ok=True)
    for number, day in enumerate(days):
        of_day = rows * (number + 1) // len(days) - rows * number // len(days)
        chunks = (
            _table_chunk(np.random.default_rng([seed, number, first]), first, size, day)
            for first, size in _pieces(of_day)
        )
        _write(out / f"{day}.csv", chunks, SHORT)


def _table_chunk(rng: Rng, first: int, rows: int, day: str) -> pa.Table:
    """Flights of a day; a key that stands twice is that of the row before."""
    number = _with_repetitions(rng, np.arange(first, first + rows))
    distance = _long_tailed(rng, rows, 600, 1.1).astype(np.int64)
    taxi = _long_tailed(rng, rows, 12, 1.1).astype(np.int64)
    origin, carrier = _zipf(rng, rows, 250), _zipf(rng, rows, 12)
    # Late where taxiing took long and by the airport and the airline.
    odds = 0.8 * np.log(taxi + 1) - 3.2 + 0.6 * np.sin(origin) + 0.5 * np.cos(carrier)
    beyond = 0 if day == FIRST_DAY and first < DRAFTED_ROWS else BEYOND
    return pa.table(
        {
            "flight": number * _PRIME % 2**36,
            "day": _all(day, rows),
            "distance": _broken(rng, distance, STRANGE, "n/a"),
            "taxi": _broken(rng, taxi, beyond, "-5"),
            "fare": _missing(rng, np.round(_long_tailed(rng, rows, 90, 1.1), 2), 0.03),
            "temperature": np.round(rng.normal(12, 9, rows), 1),
            "origin": _codes(origin, 3),
            "destination": _codes(_zipf(rng, rows, 400), 3),
            "carrier": _codes(carrier, 2),
            "plane": _missing(rng, _codes(_zipf(rng, rows, 6_000), 4, "N"), 0.02),
            "late": (rng.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.int64),
        }
    )


def write_parents(out: Path, rows: int, seed: int) -> None:
    """Departures of one date, the weather of its hours, and most of its planes."""
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, rows])
    _write(out / "weather.csv", iter([_weather(rng)]))
    _write(out / "planes.csv", iter([_planes(rng)]))
    chunks = (
        _departures(np.random.default_rng([seed, first]), first, size, rows)
        for first, size in _pieces(rows)
    )
    _write(out / "flights.csv", chunks, SHORT)


def _departures(rng: Rng, first: int, rows: int, of: int) -> pa.Table:
    """Some of the date's departures. Hour, carrier and flight number follow from a row's number,
    which the order in the file does not show."""
    number = _with_repetitions(rng, np.arange(first, first + rows)) * _PRIME % of
    hour, number = number % HOURS, number // HOURS
    carrier, flight = number % len(CARRIERS), number // len(CARRIERS) + 1
    minute, plane = rng.integers(0, 60, rows), _zipf(rng, rows, PLANES)
    origin, destination = rng.integers(0, len(ORIGINS), rows), _zipf(rng, rows, DESTINATIONS)
    distance = 90 + destination * 37
    air = distance // 8 + rng.integers(10, 40, rows)
    delay = np.round(rng.gamma(0.4, 40, rows) - 8 + 0.8 * hour).astype(np.int64)
    arrival = (60 * hour + minute + air) % 1440
    landed = rng.random(rows) >= 0.025
    return pa.table(
        {
            "year": _all(2013, rows),
            "month": _all(1, rows),
            "day": _all(1, rows),
            "dep_time": _known(landed, _clock((60 * hour + minute + delay) % 1440 + 1)),
            "sched_dep_time": hour * 100 + minute,
            "dep_delay": _broken(rng, delay, STRANGE, "soon", landed),
            "arr_time": _known(landed, _clock((arrival + delay) % 1440 + 1)),
            "sched_arr_time": _clock(arrival),
            "arr_delay": _known(landed, delay + rng.integers(-15, 15, rows)),
            "carrier": pa.array(CARRIERS).take(pa.array(carrier)),
            "flight": flight,
            "tailnum": _missing(rng, _codes(plane, 4, "N"), 0.008, "NA"),
            "origin": _broken(rng, pa.array(ORIGINS).take(pa.array(origin)), BEYOND, "BOS"),
            "dest": _codes(destination, 3),
            "air_time": _known(landed, air),
            "distance": distance,
            "hour": hour,
            "minute": minute,
            "time_hour": _hours().take(pa.array(hour)),
        }
    )


def _weather(rng: Rng) -> pa.Table:
    """Of each airport and hour; columns that nothing uses are not available."""
    airport, hour = np.divmod(np.arange(len(ORIGINS) * HOURS), HOURS)
    rows = len(hour)
    measured = {
        "temp": rng.normal(36, 8, rows),
        "dewp": rng.normal(26, 8, rows),
        "humid": rng.uniform(30, 100, rows),
        "wind_dir": rng.integers(0, 36, rows) * 10,
        "wind_speed": rng.gamma(2, 5, rows),
        "wind_gust": None,
        "precip": rng.integers(0, 9, rows) / 100,
        "pressure": rng.normal(1015, 6, rows),
        "visib": rng.integers(1, 11, rows),
    }
    return pa.table(
        {
            "origin": pa.array(ORIGINS).take(pa.array(airport)),
            "year": _all(2013, rows),
            "month": _all(1, rows),
            "day": _all(1, rows),
            "hour": hour,
            **{
                name: _all("NA", rows) if values is None else np.round(values, 2)
                for name, values in measured.items()
            },
            "time_hour": _hours().take(pa.array(hour)),
        }
    )


def _planes(rng: Rng) -> pa.Table:
    rows = PLANES_KNOWN
    return pa.table(
        {
            "tailnum": _codes(rng.permutation(PLANES)[:rows], 4, "N"),
            "year": _missing(rng, rng.integers(1960, 2014, rows), 0.02, "NA"),
            "type": _all("Fixed wing multi engine", rows),
            "manufacturer": _all("EMBRAER", rows),
            "model": _all("EMB-145XR", rows),
            "engines": _all(2, rows),
            "seats": rng.integers(2, 450, rows),
            "speed": _all("NA", rows),
            "engine": _all("Turbo-fan", rows),
        }
    )


def _hours() -> pa.Array:
    """The hours of the date in New York, as UTC has them."""
    start = datetime.fromisoformat(DEPARTURE_DAY) + timedelta(hours=_BEHIND_UTC)
    return pa.array(f"{start + timedelta(hours=hour):%Y-%m-%dT%H:00:00Z}" for hour in range(HOURS))


def _clock(minutes: Numbers) -> Numbers:
    """Minutes of a day as the files have them: 1:05 is 105, and midnight 2400."""
    return minutes // 60 * 100 + minutes % 60


def _pieces(rows: int) -> Iterator[tuple[int, int]]:
    for first in range(0, rows, CHUNK_ROWS):
        yield first, min(CHUNK_ROWS, rows - first)


def _write(path: Path, chunks: Iterator[pa.Table], short: float = 0) -> None:
    """A file with a header; it is there when it is whole.

    Args:
        short: share of lines without their last values.
    """
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        for number, chunk in enumerate(chunks):
            if number == 0:
                file.write((",".join(chunk.column_names) + "\n").encode())
            cut = round(short * chunk.num_rows)
            csv.write_csv(chunk.slice(cut), file, _FORMAT)
            if cut:
                csv.write_csv(chunk.slice(0, cut).select(range(3)), file, _FORMAT)
    unfinished.replace(path)


def _with_repetitions(rng: Rng, number: Numbers) -> Numbers:
    """Some of them twice, in the place of the one that follows."""
    again = np.flatnonzero(rng.random(len(number)) < REPEATED)
    number[again[again > 0]] -= 1
    return number


def _long_tailed(rng: Rng, rows: int, median: float, spread: float) -> Numbers:
    return median * np.exp(spread * rng.standard_normal(rows))


def _zipf(rng: Rng, rows: int, values: int) -> Numbers:
    """0 to `values` - 1, the first ones most often."""
    return np.minimum(np.exp(rng.random(rows) * np.log(values + 1)), values).astype(np.int64) - 1


def _codes(number: Numbers, letters: int, before: str = "") -> pa.Array:
    """Capital letters that stand for numbers."""
    texts = [
        before + "".join(chr(65 + n // 26**at % 26) for at in range(letters))
        for n in range(int(number.max()) + 1)
    ]
    return pa.array(texts).take(pa.array(number))


def _all(value: object, rows: int) -> pa.Array:
    return pa.repeat(value, rows)


def _missing(rng: Rng, values: Any, share: float, text: str | None = None) -> pa.Array:
    values = values if text is None else pc.cast(pa.array(values), pa.string())
    return pc.if_else(pa.array(rng.random(len(values)) < share), text, pa.array(values))


def _known(known: npt.NDArray[np.bool_], values: Numbers) -> pa.Array:
    return pc.if_else(pa.array(known), pc.cast(pa.array(values), pa.string()), "NA")


def _broken(
    rng: Rng, values: Any, share: float, by: str, known: npt.NDArray[np.bool_] | None = None
) -> pa.Array:
    """Texts of the values, a few of them replaced."""
    values = pa.array(values) if known is None else _known(known, values)
    texts = pc.cast(values, pa.string())
    return pc.if_else(pa.array(rng.random(len(texts)) < share), by, texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("table", "parents"))
    parser.add_argument("--rows", type=int, default=1_000_000, help="of all dates together")
    parser.add_argument("--dates", type=int, default=1, help="of `table`")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    first = date.fromisoformat(FIRST_DAY)
    days = [(first + timedelta(days=i)).isoformat() for i in range(asked.dates)]
    if asked.kind == "table":
        write_table(asked.out, asked.rows, days, asked.seed)
    else:
        write_parents(asked.out, asked.rows, asked.seed)


if __name__ == "__main__":
    main()
