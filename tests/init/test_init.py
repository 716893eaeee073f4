"""`millstream init`: what it proposes for which file, and what it refuses, by name."""

from __future__ import annotations

import gzip
import os
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from jobs.base.errors import ConfigError, DataRefused, MillstreamError
from jobs.main import main
from jobs.settings.load import load_settings
from schemas.field import Categorical, Label, Numeric
from tests.init.files import DAYS, HEADER, made, orders, written


def test_types_ranges_and_fields_are_read_off_the_data(tmp_path: Path) -> None:
    found = made(written(tmp_path / "orders.csv", HEADER, orders()), key=("order",))
    columns = {column.name: column for column in found.dataset.row_source.columns}
    assert {name: column.type for name, column in columns.items()} == {
        "order": "bigint",
        "day": "date",
        "size": "string",
        "price": "double",
        "note": "string",
        "late": "bigint",
    }
    assert (columns["price"].min, columns["price"].max) == (0, 100)
    assert (columns["late"].min, columns["late"].max, columns["late"].of_label) == (0, 1, True)
    assert not columns["order"].nullable
    assert (found.dataset.key, found.dataset.ds) == (("order",), "day")
    assert {type(f): f.name for f in found.dataset.fields if f.name != "day_weekday"} == {
        Label: "label",
        Categorical: "size",
        Numeric: "price",
    }
    assert "note is not used" in found.text
    assert "20.0% empty" in found.text
    assert f"--dates {DAYS[0]}..{DAYS[1]}" in found.said


def test_each_line_is_explained(tmp_path: Path) -> None:
    found = made(written(tmp_path / "orders.csv", HEADER, orders()))
    lines = found.text.splitlines()
    calls = ("Column(", "Label(", "Categorical(", "Numeric(", "name=", "ds=", "key=", "rows=")
    for before, line in pairwise(lines):
        if line.strip().startswith(calls):
            assert "  # " in line or before.strip().startswith("# "), line
    config = found.config.read_text().splitlines()
    values = [line for line in config if re.match(r"\s*\w+: \S", line) and "orders:" not in line]
    assert all("  # " in line for line in values)


@pytest.mark.parametrize(
    ("values", "task", "sql"),
    [
        (("0", "1"), "binary", "CAST(late AS FLOAT)"),
        (("yes", "no"), "binary", "CAST(late AS FLOAT)"),
        (("ok", "ok", "o'k"), "binary", "CAST(late = 'o''k' AS FLOAT)"),
        (("1", "2", "2"), "binary", "CAST(late = 1 AS FLOAT)"),
        (("1200.5", "3", "99"), "regression", "late / 1e3"),
        (("1.5", "2", "3"), "regression", "late"),
        (("a", "b", "c"), "multiclass", "CASE late WHEN 'a' THEN 0 WHEN 'b' THEN 1"),
    ],
)
def test_the_label_says_the_task(
    values: tuple[str, ...], task: str, sql: str, tmp_path: Path
) -> None:
    rows = [f"{i % 7 + 0.5},{values[i % len(values)]}" for i in range(120)]
    found = made(written(tmp_path / "o.csv", "price,late", rows), date=DAYS[0])
    label = found.dataset.label
    assert (label.task, label.sql[: len(sql)]) == (task, sql)
    metric = {"binary": "auc", "regression": "r2", "multiclass": "accuracy"}[task]
    assert found.settings.gate.rules[0].metric == metric


def test_names_that_sql_cannot_read_have_others(tmp_path: Path) -> None:
    header = "Order ID,größe,2nd,split,true,a.b,late"
    rows = [f"{i},x{i % 3},{i % 9},{i / 7:.3f},{i % 4},{i % 5},{i % 2}" for i in range(60)]
    found = made(written(tmp_path / "My Orders.csv", header, rows), date=DAYS[0])
    source = found.dataset.row_source
    assert source.header_names == tuple(header.split(","))
    assert source.column_names == (
        "order_id", "grosse", "c_2nd", "split_2", "true_2", "a_b", "late",
    )  # fmt: skip
    assert found.name == "my_orders"


def test_a_column_called_label_that_is_none(tmp_path: Path) -> None:
    rows = [f"{'ab'[i % 2]},{i % 7},{i % 3 % 2}" for i in range(60)]
    found = made(written(tmp_path / "o.csv", "label,x,late", rows), date=DAYS[0])
    assert [f.name for f in found.dataset.fields] == ["target", "label", "x"]
    assert found.dataset.label.sql == "CAST(late AS FLOAT)"


@pytest.mark.parametrize(
    ("name", "delimiter", "encoding"),
    [("o.tsv", "\t", "utf-8"), ("o.csv", ";", "latin-1"), ("o.txt", "|", "utf-8")],
)
def test_delimiter_and_encoding_are_found(
    name: str, delimiter: str, encoding: str, tmp_path: Path
) -> None:
    rows = [delimiter.join((f"ä{i % 3}", "1,5", str(i % 2))) for i in range(50)]
    file = written(tmp_path / name, delimiter.join(("größe", "x", "late")), rows, encoding)
    source = made(file, date=DAYS[0]).dataset.row_source
    assert (source.delimiter, source.encoding) == (delimiter, encoding)
    assert source.header_names[0] == "größe"


def test_missing_values_and_compressed_files(tmp_path: Path) -> None:
    rows = [f"{'NA' if i % 4 == 0 else i % 30},{i % 2}" for i in range(80)]
    file = tmp_path / "o.csv.gz"
    file.write_bytes(gzip.compress("\n".join(["price,late", *rows]).encode()))
    found = made(file, date=DAYS[0])
    price = found.dataset.row_source.columns[0]
    assert (found.dataset.row_source.null_value, price.type, price.max) == ("NA", "bigint", 100)
    assert "25.0% empty" in found.text


def test_few_values_of_another_type_are_mistakes(tmp_path: Path) -> None:
    rows = [f"{i % 9 + 0.5 if i != 77 else 'cheap'},{i % 2}" for i in range(200)]
    found = made(written(tmp_path / "o.csv", "price,late", rows), date=DAYS[0])
    price = found.dataset.row_source.columns[0]
    assert (price.type, price.max) == ("double", 20)
    assert "1 refused, such as 'cheap'" in found.text
    rows = [f"{i % 9 + 0.5 if i % 50 else 'cheap'},{i % 2}" for i in range(200)]
    others = made(written(tmp_path / "two" / "o.csv", "price,late", rows), date=DAYS[0])
    assert others.dataset.row_source.columns[0].type == "string"


@pytest.mark.parametrize(
    ("text", "ds"),
    [
        ("2024-03-0{}", "day"),
        ("2024-03-0{} 10:15:00", "CAST(day AS DATE)"),
        (
            "2024030{}",
            r"TRY_CAST(regexp_replace(CAST(day AS VARCHAR), '^ *(\d{4})(\d{2})(\d{2}) *$', "
            r"'\1-\2-\3') AS DATE)",
        ),
        ("2{}.03.2024", None),
        ("3/2{}/2024", None),
    ],
)
def test_the_date_of_a_column(text: str, ds: str | None, tmp_path: Path) -> None:
    rows = [f"{text.format(i % 2 + 1)},{i % 9},{i % 2}" for i in range(40)]
    found = made(written(tmp_path / "o.csv", "day,price,late", rows), date="day")
    assert found.dataset.ds is not None
    assert ds is None or found.dataset.ds == ds
    assert re.search(r"--dates 2024-03-(0|2)1\.\.2024-03-(0|2)2", found.said)


def test_the_date_of_the_path(tmp_path: Path) -> None:
    rows = [f"{i % 9},{i % 2}" for i in range(40)]
    file = written(tmp_path / "o.csv", "price,late", rows)
    day = tmp_path / DAYS[0]
    day.mkdir()
    file = file.rename(day / "o.csv")
    wishes = ["--from", str(file), "--to", str(tmp_path), "--label", "late", "--key", ""]
    assert main(["init", *wishes]) == 0
    settings = (tmp_path / "o.yaml").read_text()
    assert '    o: "{ds}/o.csv"' in settings
    assert "ds=None" in (tmp_path / "o.py").read_text()


def _file(folder: Path, content: str) -> Path:
    path = folder / "data.csv"
    path.write_text(content, encoding="utf-8")
    return path


GOOD = "day,price,late\n" + "".join(f"{DAYS[i % 2]},{i % 9},{i % 2}\n" for i in range(40))


@pytest.mark.parametrize(
    ("content", "wish", "error", "named"),
    [
        ("", {}, DataRefused, "is empty"),
        ("a,b,late\n", {}, DataRefused, "has a header and no row"),
        ("1,2.5,0\n2,3.5,1\n", {}, DataRefused, "has no header: the first line has the value '1'"),
        ("a,,late\n1,2,0\n", {}, DataRefused, "column 2 has no name"),
        ("a,A,late\n1,2,0\n", {}, DataRefused, "the column 'a' more than once"),
        ("one column\nx\n", {}, DataRefused, "no delimiter"),
        ("day,late\n2024-03-01,1\n2024-03-01,1\n", {}, DataRefused, "label 'late' has 1 value"),
        ("day,late\n2024-03-01,1\n2024-03-01,0\n", {}, DataRefused, "no column is of use"),
        ("a,b\x00,late\n1,2,0\n", {}, DataRefused, "it is no text"),
        (GOOD, {"label": "lat"}, ConfigError, "--label 'lat': no such column"),
        (GOOD, {"label": None}, ConfigError, "no label"),
        (GOOD, {"key": ("id",)}, ConfigError, "--key 'id': no such column"),
        (GOOD, {"key": ("late",)}, ConfigError, "is the label"),
        (GOOD, {"key": ("price",)}, DataRefused, "are repetitions"),
        (GOOD, {"date": "tag"}, ConfigError, "--date tag: no such column"),
        (GOOD, {"date": "price"}, DataRefused, "does not hold one kind of date: 0"),
        (GOOD.replace("day", "x").replace("-", "~"), {}, ConfigError, "no date"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    content: str,
    wish: dict[str, object],
    error: type[MillstreamError],
    named: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=re.escape(named)):
        made(_file(tmp_path, content), **wish)  # type: ignore[arg-type]
    assert not (tmp_path / "made").exists()


def test_a_missing_file_and_one_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--from", str(tmp_path / "no.csv"), "--label", "x"]) == 2
    assert "no.csv does not exist" in capsys.readouterr().err
    file = _file(tmp_path, GOOD)
    made(file)
    with pytest.raises(ConfigError, match=re.escape("data.py is there already")):
        made(file)


def test_label_and_key_are_asked_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "orders.csv", HEADER, orders(60))
    ours, theirs = os.openpty()
    os.write(ours, b"late\norder\n")
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        assert main(["init", "--from", str(file), "--to", str(tmp_path)]) == 0
    os.close(ours)
    shown = capsys.readouterr().out
    assert re.search(r"price +double +1.5 to 39.5", shown)
    assert shown.index("Which column shall be predicted?") < shown.index("Which columns make")
    assert 'key=("order",)' in (tmp_path / "orders.py").read_text()


def test_the_end_of_the_input_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "orders.csv", HEADER, orders(60))
    ours, theirs = os.openpty()
    os.write(ours, b"\x04")
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        assert main(["init", "--from", str(file), "--to", str(tmp_path)]) == 2
    os.close(ours)
    assert "millstream: no label" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["email", "types", "torch", "schemas", "no", "null", "on"])
def test_a_name_hides_no_module_and_is_no_value_of_yaml(tmp_path: Path, name: str) -> None:
    file = written(tmp_path / f"{name}.csv", HEADER, orders(60))
    options = ("--label", "late", "--key", "order", "--to", str(tmp_path))
    assert main(["init", "--from", str(file), *options]) == 0
    assert load_settings(tmp_path / f"{name}_data.yaml").dataset().name == f"{name}_data"
