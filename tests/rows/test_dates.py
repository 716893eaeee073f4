"""Judging: the date of each row, by its path or by what it says, and moments in UTC."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from jobs.rows.judge.engine import Engine
from jobs.rows.judge.identity import Split
from jobs.rows.read.pieces import cut, read_rows
from schemas.dataset import Column
from schemas.field import (
    Carried,
    Categorical,
    CategoricalList,
    Numeric,
    NumericList,
    Tensor,
    Timestamp,
)
from tests.rows.engines import (
    ONE,
    WHOLE,
    dates_of,
    declared,
    files_of,
    judged,
    reasons_of,
    values_of,
    write,
)

FIRST, SECOND = "2024-01-01", "2024-01-02"
SPLIT = Split(7, {"train": 0.5, "test": 0.5})
_DATED = (Column("day", "string"), Column("n", "int"))


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2024-01-01", FIRST),
        ("2024-01-01 23:30:00", FIRST),
        ("2024-01-01T23:30:00-05:00", SECOND),
        ("2024-01-02T00:30:00+01:00", FIRST),
        ("infinity", "undated"),
        ("0001-01-01T00:00:00+14:00", "undated"),
        ("-infinity", "undated"),
        ("2024-02-30", "undated"),
        ("", "undated"),
        ("yesterday", "undated"),
        ("2024-01-03", None),
    ],
)
def test_the_date_of_a_text_is_that_of_the_moment_in_utc(
    text: str, day: str | None, tmp_path: Path
) -> None:
    dataset = declared(*_DATED, ds="day", fields=(Numeric("n"), Timestamp("at", "day")))
    found = judged(dataset, write(tmp_path, {"0.csv": f"{text},1\n"}), FIRST, SECOND)
    assert dates_of(found) == ({day} if day else set())
    assert found.others == (0 if day else 1)
    if day == "undated":
        assert [*reasons_of(found).values()] == [["undated"]]


def test_moments_of_texts_are_in_utc(tmp_path: Path) -> None:
    fields = (
        ONE,
        Timestamp("at", "t"),
        Timestamp("day", "CAST(left(t, 10) AS DATE)"),
        Carried("moment", "t", type="timestamp"),
    )
    dataset = declared(Column("t", "string"), fields=fields)
    texts = ["2024-05-01T12:00:00+02:00", "2024-05-01 12:00:00", "infinity", "never"]
    found = judged(dataset, write(tmp_path, {"0.csv": "\n".join(texts)}))
    moments = [datetime(2024, 5, 1, 10), datetime(2024, 5, 1, 12), None, None]
    assert values_of(found, "at") == values_of(found, "moment") == moments
    assert values_of(found, "day") == [datetime(2024, 5, 1)] * 2 + [None] * 2


def test_dates_of_paths_and_rows_of_other_dates(tmp_path: Path) -> None:
    folder = write(tmp_path, {f"{FIRST}.csv": "1\nx\n", f"{SECOND}.csv": "2\n"})
    dataset = declared(Column("n", "int"), fields=(Numeric("n"),))
    found = judged(dataset, f"{folder}/{{ds}}.csv", FIRST, SECOND)
    assert values_of(found, "ds", "n") == [(FIRST, 1), (SECOND, 2)]
    assert [row["ds"] for row in found.refused.to_pylist()] == [FIRST]


@pytest.mark.parametrize("others", ["", f"{SECOND},1\n" * 3, "x,1\n" * 3])
def test_tables_without_valid_rows(others: str, tmp_path: Path) -> None:
    dataset = declared(
        Column("day", "date"),
        Column("n", "int"),
        Column("name", "string", pattern="a"),
        ds="day",
        key=("n",),
        fields=(
            Numeric("n_value", "n"),
            Categorical("name_id", "name"),
            Categorical("both", crossed=("name_id", "n_id")),
            Categorical("n_id", "n"),
            CategoricalList("l", "[name]", max_length=2),
            NumericList("k", "[n]", max_length=2),
            Tensor("t", "[n]", shape=(1,)),
            Carried("name"),
        ),
    )
    engine = Engine(dataset, (FIRST,), split=SPLIT)
    files = files_of(write(tmp_path, {"0.csv": others.replace("\n", ",a\n") or "\n"}))
    tables = list(read_rows(cut(files, dataset.row_source, WHOLE), dataset.row_source))
    sound = write(tmp_path / "sound", {"0.csv": f"{FIRST},1,a\n"})
    (table,) = read_rows(cut(files_of(sound), dataset.row_source, WHOLE), dataset.row_source)
    expected = engine.judge(table)
    assert (expected.valid.num_rows, expected.refused.num_rows) == (1, 0)
    for one in [table.slice(0, 0), *tables]:
        found = engine.judge(one)
        assert found.valid.num_rows == 0
        assert found.refused.num_rows + found.others == one.num_rows
        assert found.valid.schema == expected.valid.schema
        assert found.refused.schema == expected.refused.schema
