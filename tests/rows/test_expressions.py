"""Expressions that do not follow from the row alone are refused when the settings are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.base.errors import ConfigError
from jobs.main import main
from jobs.rows.judge.expressions import functions_of, refuse_bad_expressions
from schemas.criteo import CRITEO
from schemas.dataset import Column, Dataset, Join, Source
from schemas.digits import DIGITS
from schemas.expect import Share
from schemas.field import (
    Carried,
    Categorical,
    CategoricalList,
    Field,
    Image,
    Label,
    Numeric,
    NumericList,
    Tensor,
    Timestamp,
)
from schemas.flights import FLIGHTS
from schemas.hashed import Bucketized
from tests.builders.baskets import BASKETS
from tests.builders.examples import CLICKS
from tests.builders.flights import FEW
from tests.builders.hostile_declarations import EVERY
from tests.builders.lines import LINES
from tests.builders.photos import PHOTOS
from tests.builders.poison import POISON_PARQUET
from tests.builders.visits import VISITS
from tests.init.files import HEADER, made, orders, written

SHIPPED = (FLIGHTS, CRITEO, DIGITS)
# Those of hosts' mathematical libraries, whose last bit is not the same everywhere.
TRANSCENDENTAL = frozenset(
    {"ln", "log", "log2", "log10", "exp", "pow", "power", "^", "**", "cbrt", "gamma", "lgamma"}
    | {"sin", "cos", "tan", "cot", "asin", "acos", "atan", "atan2"}
    | {"sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "geomean", "geometric_mean"}
)

ROWS = Source(
    "rows",
    (
        Column("k", "string"),
        Column("x", "double"),
        Column("n", "int"),
        Column("day", "date"),
        Column("t", "timestamp"),
        Column("word", "string"),
        Column("ordinal", "int"),
        Column("Order No", "bigint"),
    ),
)
SHOPS = Source("shops", (Column("shop", "string"), Column("size", "int")))


def declared(*more: Field, **changes: Any) -> Dataset:
    whole = {
        "name": "made_up",
        "sources": (ROWS, SHOPS),
        "rows": "rows",
        "key": ("k",),
        "ds": "day",
        "joins": (Join("shops", on=(("word", "shop"),)),),
        "fields": (Label("y", "x > 1"), Numeric("v", "x"), Categorical("w", "word"), *more),
    }
    return Dataset(**{**whole, **changes})


def refused(dataset: Dataset) -> str:
    """Why a declaration cannot be used; empty where it can."""
    try:
        refuse_bad_expressions(dataset)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "dataset",
    [*SHIPPED, VISITS, BASKETS, PHOTOS, CLICKS, LINES, EVERY, FEW, POISON_PARQUET],
    ids=lambda dataset: dataset.name,
)
def test_declarations_of_ours_pass(dataset: Dataset) -> None:
    assert refused(dataset) == ""


@pytest.mark.parametrize(
    ("sql", "cause"),
    [
        ("nowhere", 'Referenced column "nowhere" not found'),
        ("shops.nothing", 'Could not find key "nothing"'),
        ("x + word", r"No function matches .* '\+\(DOUBLE, VARCHAR\)'"),
        ("add_months(day, 1)", "add_months does not exist"),
        ("x +", "is no expression: syntax error"),
        ("x, n", "more than one value"),
        ("x FROM rows", "is no expression"),
        ("x AS z", "is no expression"),
        ("x; SELECT 1", "is no expression"),
        ("x) + (n", "is no expression"),
        ("x -- a comment", "is no expression"),
        ("*", "a star"),
        ("COLUMNS('x')", "a star"),
        ("(SELECT 1)", "a subquery"),
        ("n IN (SELECT 1)", "a subquery"),
        ("row_number() OVER ()", "a window"),
        ("sum(x)", "sum, an aggregate"),
        ("count(*)", "an aggregate"),
        ("wavg(x, n)", "an aggregate"),
        ("$1", "a parameter"),
        ("?", "a parameter"),
        ("#1", "a column by its place"),
        ("random()", "random, whose value does not follow from the row"),
        ("x.random()", "random, whose value"),
        ("uuid()", "uuid, whose value"),
        ("nextval('s')", "nextval, whose value"),
        ("now()", "now, whose value"),
        ("current_date", "current_date, which asks the clock"),
        ("CURRENT_TIMESTAMP", "current_timestamp, which asks the clock"),
        ("localtimestamp", "asks the clock"),
        ("epoch(age(t))", "age of one date, which asks the clock"),
        *[
            (f"epoch({call})", "age of one date, which asks the clock")
            for call in ("t.age()", "(t).age()", "main.age(t)", "system.main.age(t)")
        ],
        *[
            (f"hour(CAST(t AS {kind}) AT TIME ZONE 'Asia/Tokyo')", "asks the clock for its offset")
            for kind in ("TIMETZ", "TIME WITH TIME ZONE")
        ],
        ("epoch(ago(INTERVAL 1 DAY))", "ago, which calls current_timestamp, which asks the clock"),
        ("version()", "asks the session"),
        ("current_setting('threads')", "current_setting, whose value"),
        ("getvariable('x')", "getvariable, whose value"),
        ("getenv('HOME')", "getenv does not exist"),
        ("read_csv('/etc/passwd')", "read_csv, which gives rows of a table or a file"),
        ("read_text('/etc/passwd')", "read_text, which gives rows"),
        ("unnest([x])", "unnest, which gives rows"),
        ("pg_sleep(1)", "pg_sleep, which calls sleep_ms, whose value"),
        ("__row.x", "names with two underscores"),
        ("rows.x", 'Referenced table "rows" not found'),
        ("day", "gives DATE, where a number is needed"),
        ("[x]", r"gives DOUBLE\[\], where a number is needed"),
        ("shops", r"gives STRUCT\(.*\), where a number is needed"),
    ],
)
def test_what_does_not_follow_from_the_row_is_refused(sql: str, cause: str) -> None:
    with pytest.raises(ConfigError, match=f"'made_up': field 'f': .*{cause}") as refused:
        refuse_bad_expressions(declared(Numeric("f", sql)))
    assert "\n\n" not in str(refused.value)


@pytest.mark.parametrize(
    "sql",
    [
        "x",
        "shops.size",
        '"Order No" // 2',
        "ordinal",
        "try(1 // n)",
        "list_sum([x, n])",
        "list_reduce([x, n], lambda a, b: a + b)",
        "if(x > 1, 1, 2)",
        "nullif(n, 0)",
        "split_part(word, '-', 1)",
        "word.length()",
        "epoch(age(t, t))",
        "epoch(t.age(t))",
        "epoch(main.age(t, t))",
        "round(x, 2)",
        "TRY_CAST(word AS DECIMAL(10, 2))",
        "date_diff('day', DATE '2020-01-01', day)",
        "CASE WHEN word LIKE 'a%' THEN 2 END",
        "NULL",
    ],
)
def test_what_follows_from_the_row_passes(sql: str) -> None:
    assert refused(declared(Numeric("f", sql))) == ""


@pytest.mark.parametrize(
    ("field", "cause"),
    [
        (Label("f", "word = 'a'", task="regression"), None),
        (Label("f", "t"), "gives TIMESTAMP, where a number"),
        (Categorical("f", "day"), None),
        (Categorical("f", "[x]"), "where one value"),
        (Categorical("f", "shops"), "where one value"),
        (Bucketized("f", "day", boundaries=(1.0,)), "where a number"),
        (CategoricalList("f", "string_split(word, '|')", max_length=2), None),
        (CategoricalList("f", "word", max_length=2), "where a list of values"),
        (NumericList("f", "string_split(word, '|')", max_length=2), None),
        (NumericList("f", "x", max_length=2), "where a list of numbers"),
        (NumericList("f", "[day]", max_length=2), "where a list of numbers"),
        (Tensor("f", "[x, n]", shape=(2,)), None),
        (Tensor("f", "[[x], [n]]", shape=(2, 1)), "where a list of numbers"),
        (Image("f", "encode(word)", shape=(2, 2)), None),
        (Image("f", "word", shape=(2, 2)), "where BLOB, the bytes of an image,"),
        (Timestamp("f", "t AT TIME ZONE 'Europe/Berlin'"), None),
        (Timestamp("f", "x"), "where a moment"),
        (Carried("f", "day", type="date"), None),
        (Carried("f", "n", type="string"), None),
        (Carried("f", "day", type="int"), "where a value of type int"),
    ],
)
def test_a_kind_takes_types_that_it_can_store(field: Field, cause: str | None) -> None:
    more: tuple[Field, ...] = (field,)
    dataset = (
        declared(*more)
        if not isinstance(field, Label)
        else declared(fields=(field, Numeric("v", "x")))
    )
    if cause is None:
        refuse_bad_expressions(dataset)
        return
    with pytest.raises(ConfigError, match=f"field 'f': .*{cause}"):
        refuse_bad_expressions(dataset)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ds": "nowhere"}, "ds: 'nowhere' cannot be bound"),
        ({"ds": "shops.size"}, "ds: 'shops.size' cannot be bound"),
        ({"ds": "x"}, "ds: 'x' gives DOUBLE, where a date"),
        ({"ds": "today()"}, "ds: 'today.*' calls today"),
        ({"joins": (Join("shops", on=(("shops.shop", "shop"),)),)}, "join with 'shops'"),
        ({"joins": (Join("shops", on=(("upper(no)", "shop"),)),)}, "join with 'shops'"),
        ({"expectations": (Share("a", "x > 1"),)}, "expectation 'share:a': 'x > 1' cannot be"),
        ({"expectations": (Share("a", "v"),)}, "'share:a': 'v' gives FLOAT, where true or false"),
        ({"expectations": (Share("a", "avg(v) > 1"),)}, "'share:a': .* calls avg, an aggregate"),
    ],
)
def test_date_joins_and_expectations_are_bound_too(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        refuse_bad_expressions(declared(**changes))


def test_an_expectation_sees_values_as_they_are_before_they_get_ids() -> None:
    conditions = ("w = 'a'", "v > 0.5 AND y = 1", "w IS NULL")
    refuse_bad_expressions(declared(expectations=tuple(Share(c, c) for c in conditions)))


def test_a_bad_expression_ends_the_command_before_spark_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = made(written(tmp_path / "orders.csv", HEADER, orders(60)), key=("order",))
    file = found.folder / "orders.py"
    file.write_text(found.text.replace("dayofweek(day)", "date_add(day, no)"), encoding="utf-8")
    monkeypatch.setattr("pyspark.sql.SparkSession.builder", None)
    assert main(["etl", "--config", str(found.config), "--date", "2024-03-01"]) == 2
    said = capsys.readouterr().err
    assert "declaration 'orders': field 'day_weekday': 'date_add(day, no) + 1'" in said
    assert 'Referenced column "no" not found' in said


def test_names_that_are_keywords_are_quoted_by_init(tmp_path: Path) -> None:
    rows = [f"2024-03-{i % 9 + 1:02d},{i % 7},{i % 2}" for i in range(60)]
    file = written(tmp_path / "o.csv", "timestamp,group,end", rows)
    found = made(file, label="end", date="timestamp")
    assert found.dataset.ds == '"timestamp"'
    assert found.dataset.label.expr == 'CAST("end" AS FLOAT)'
    assert [f.expr for f in found.dataset.categorical] == ['dayofweek("timestamp") + 1', ""]


def test_macros_count_as_what_they_call() -> None:
    assert {"sum", "/"} <= functions_of(["wavg(x, n)"])
    assert functions_of(["shops.size ** 2 + sqrt(x)", "x"]) == {"**", "+", "sqrt"}


def test_nothing_shipped_stores_what_duckdb_computed_with_a_transcendental_function(
    tmp_path: Path,
) -> None:
    """Its bits would be the host's: `Log1p`, `Cyclic` and the like are our own exact code."""
    with_times = [
        f"{row},{i / 7:.2f},2024-03-0{i % 2 + 1} 10:0{i % 9}:00" for i, row in enumerate(orders())
    ]
    drafted = made(
        written(tmp_path / "orders.csv", f"{HEADER},cost,seen", with_times),
        label="cost",
        date="day",
    ).dataset
    assert drafted.label.task == "regression"
    for dataset in (*SHIPPED, drafted):
        assert not functions_of(f.sql for f in dataset.fields) & TRANSCENDENTAL
    assert functions_of(["x ** 0.5"]) & TRANSCENDENTAL
