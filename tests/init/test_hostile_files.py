"""Files that are odd, and still declared so that the row engine takes them as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.base.errors import ConfigError, DataRefused
from jobs.rows.judge.engine import Engine
from jobs.rows.judge.expressions import refuse_bad_expressions
from jobs.rows.judge.judged import Judged
from schemas.field import Scale
from tests.init.files import DAYS, Made, made, written
from tests.rows.engines import files_of, judged_files


def judged_as_made(found: Made) -> Judged:
    """The file by what was declared of it, on the dates that are proposed."""
    refuse_bad_expressions(found.dataset)
    days = re.findall(r"\d{4}-\d{2}-\d{2}", found.said)
    dates = [days[0], days[1]] if "--dates" in found.said else [days[0]]
    (source,) = found.settings.etl.sources.values()
    return judged_files(
        Engine(found.dataset, tuple(dates)), files_of(found.folder / source, *dates)
    )


def made_of(folder: Path, values: list[str], name: str = "o.csv", date: str = DAYS[0]) -> Made:
    """Of a file with a column `x` of the values, and a label."""
    rows = [f"{value},{i / 7:.3f},{i % 2}" for i, value in enumerate(values)]
    return made(written(folder / name, "x,price,late", rows), date=date)


def column_of(found: Made, name: str) -> tuple[str, float | None, float | None]:
    (column,) = (c for c in found.dataset.row_source.columns if c.name == name)
    return column.type, column.min, column.max


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ("\t{}.5", "string"),
        ("{}.5\t", "string"),
        (" {}.5 ", "double"),
        ("\u00a0{}.5", "string"),
        ("+-{}.5", "string"),
        ("0000-01-0{}", "string"),
        ("2024-02-3{}", "string"),
        (" 2024-02-0{} ", "date"),
        ("2024-02-0{}T00:00:00+25:00", "string"),
        ("{}e999", "string"),
    ],
)
def test_types_are_those_of_the_row_engine(value: str, type_: str, tmp_path: Path) -> None:
    found = made_of(tmp_path, [value.format(i % 9 + 1) for i in range(60)])
    assert column_of(found, "x")[0] == type_
    assert judged_as_made(found).valid.num_rows == 60


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        (["1e307", "9e307"], (0.0, None)),
        (["-1e308", "5e-324"], (None, 1e-323)),
        (["-5e-324", "0"], (-1e-323, 0.0)),
        (["1e-310", "3"], (0.0, 10.0)),
    ],
)
def test_numbers_at_the_ends_have_no_bounds_or_their_own(
    values: list[str], bounds: tuple[float | None, float | None], tmp_path: Path
) -> None:
    assert column_of(made_of(tmp_path, values * 30), "x")[1:] == bounds


def test_a_label_without_a_spread_of_its_own(tmp_path: Path) -> None:
    rows = [f"{i % 7},{i % 9 - 4}e307" for i in range(60)]
    found = made(written(tmp_path / "o.csv", "x,late", rows), date=DAYS[0])
    assert found.dataset.label.task == "regression"


@pytest.mark.parametrize(
    "text", [" {:02d}/13/2024 ", " 2024{:02d}13", "2024{:02d}13 ", " 13.{:02d}.2024 10:00"]
)
def test_dates_with_spaces(text: str, tmp_path: Path) -> None:
    found = made_of(tmp_path, [text.format(i % 2 + 1) for i in range(60)], date="x")
    assert "--dates 2024-01-13..2024-02-13" in found.said
    assert judged_as_made(found).valid.num_rows == 60


def test_the_proposed_date_is_that_of_the_moment_in_utc(tmp_path: Path) -> None:
    found = made_of(tmp_path, ["2024-01-01T23:30:00-05:00"] * 60, date="x")
    assert "--date 2024-01-02" in found.said
    assert judged_as_made(found).valid.num_rows == 60


@pytest.mark.parametrize("time", ["2024-01-01 10:{:02d}:00", "2024/01/01 10:{:02d}"])
def test_a_key_is_unique_within_a_day_not_a_moment(time: str, tmp_path: Path) -> None:
    rows = [f"u{i % 5},{time.format(i)},{i / 7:.2f},{i % 2}" for i in range(60)]
    file = written(tmp_path / "o.csv", "user,t,price,late", rows)
    with pytest.raises(DataRefused, match="key user: 55 of 60 rows are repetitions"):
        made(file, key=("user",), date="t")
    assert made(file, key=("user", "t"), date="t").dataset.key == ("user", "t")


@pytest.mark.parametrize(
    ("value", "transforms"),
    [
        ("17{:05d}000000", (Scale(1e-12),)),
        ("-{}e200", (Scale(1e-203),)),
        ("{}00", ()),
        ("{}e-12", (Scale(1e9),)),
        ("{}e-320", (Scale(1e300),)),
    ],
)
def test_statistics_can_take_the_numbers(
    value: str, transforms: tuple[Scale, ...], tmp_path: Path
) -> None:
    found = made_of(tmp_path, [value.format(i * 37 + 1) for i in range(60)])
    assert {f.name: f.transforms for f in found.dataset.numeric}["x"] == transforms
    assert judged_as_made(found).valid.num_rows == 60


def test_a_label_of_one_number_spelled_twice_is_refused(tmp_path: Path) -> None:
    rows = [f"{i % 7},{('1', '1.0')[i % 2]}" for i in range(60)]
    with pytest.raises(DataRefused, match="label 'late' has 1 value"):
        made(written(tmp_path / "o.csv", "x,late", rows), date=DAYS[0])


def test_all_names_of_a_label_are_taken(tmp_path: Path) -> None:
    rows = [f"{i % 7},{i % 5},{i % 3},{i % 2}" for i in range(60)]
    header = "label,target,predicted_value,late"
    found = made(written(tmp_path / "o.csv", header, rows), date=DAYS[0])
    assert found.dataset.label.name == "predicted_value_2"


def test_a_label_of_classes_beside_a_column_called_label(tmp_path: Path) -> None:
    rows = [f"{'ab'[i % 2]},{i % 7},{'xyz'[i % 3]}" for i in range(60)]
    found = made(written(tmp_path / "o.csv", "label,x,late", rows), date=DAYS[0])
    assert (found.dataset.label.name, found.dataset.label.task) == ("target", "multiclass")


def content(ends: str, *, value: str = "3") -> bytes:
    lines = ["x,price,late", *(f"{value},{i / 7:.3f},{i % 2}" for i in range(60))]
    return (ends.join(lines) + ends).encode()


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (content("\r"), 60),
        (content("\r\n"), 60),
        (content("\n", value="z" * 200_000), 60),
        (content("\n") + b'"' + b"u" * 20 + b",1.5,1\n", 60),
        (content("\n", value="a\x01\x7fb"), 60),
    ],
)
def test_ends_of_lines_long_values_and_open_quotes(data: bytes, count: int, tmp_path: Path) -> None:
    file = tmp_path / "o.csv"
    file.write_bytes(data)
    assert judged_as_made(made(file, date=DAYS[0])).valid.num_rows == count


def test_a_line_without_an_end_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "o.csv"
    file.write_bytes(b"x" * (2 << 20))
    with pytest.raises(DataRefused, match="no end of a line"):
        made(file)


@pytest.mark.parametrize("name", ["a[1].csv", "a*.csv", "what?.csv", "a]b[.csv"])
def test_a_name_that_is_a_glob_means_the_file(name: str, tmp_path: Path) -> None:
    written(tmp_path / "a1.csv", "x,price,late", ["1,2,0"])
    found = made_of(tmp_path, [str(i % 9) for i in range(60)], name)
    assert judged_as_made(found).valid.num_rows == 60


def test_a_name_with_a_brace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a brace in its path"):
        made_of(tmp_path, ["1"] * 20, "a{1}.csv")
