"""Parents: a row meets the parent of its own date, small parents and large ones alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import DataRefused
from jobs.etl.raw import sources
from jobs.rows.read import pieces
from schemas.dataset import Column, Join, Source
from schemas.field import Numeric
from tests.builders.lakes import example_rows, examples_of, quarantined, run_etl, shard_contents
from tests.builders.visits import HEADER, VISITS, Raw, rows_of

DATES = ["2024-01-01", "2024-01-02", "2024-01-03"]
SHOPS = {DATES[0]: "ab", DATES[1]: "bcd", DATES[2]: "acd"}
REQUIRED = replace(VISITS, joins=(replace(VISITS.joins[0], required=True),))
# Two parents, the second by a key that may be null and by two columns.
TWO = replace(
    VISITS,
    sources=(
        *VISITS.sources,
        Source(
            "ages",
            columns=(
                Column("age", "int"),
                Column("shop", "string"),
                Column("weight", "double"),
            ),
        ),
    ),
    joins=(*VISITS.joins, Join("ages", on=(("age", "age"), ("shop", "shop")))),
    fields=(*VISITS.fields, Numeric("age_weight", "ages.weight")),
)
LARGE = ("etl.broadcast_parent_mb=0", "etl.max_quarantined_fraction=1")
SMALL = ("etl.broadcast_parent_mb=256", "etl.max_quarantined_fraction=1")


def write(folder: Path, declaration: str, more: Mapping[str, str] | None = None) -> Raw:
    """A file of visits, and one of shops, a date; a shop's size is another on each."""
    raw = Raw(folder, declaration=f"tests.etl.judge.test_parents:{declaration}").write()
    for day, ds in enumerate(DATES):
        (folder / f"{ds}.csv").write_text("\n".join([HEADER, *rows_of(ds, 40)]) + "\n")
        sizes = "".join(f"{shop},{10 * day + n}\n" for n, shop in enumerate(SHOPS[ds]))
        (folder / f"shops-{ds}.csv").write_text(f"shop,size\n{sizes}")
    raw.configure({"visits": "{ds}.csv", "shops": "shops-{ds}.csv", **(more or {})})
    return raw


def size_of(ds: str, shop: str) -> float | None:
    place = SHOPS[ds].find(shop)
    return None if place < 0 else 10.0 * DATES.index(ds) + place


@pytest.mark.parametrize("settings", [SMALL, LARGE], ids=["small", "large"])
def test_a_range_is_its_dates_one_by_one(
    tmp_path: Path, spark: SparkSession, settings: tuple[str, ...]
) -> None:
    """A row of one date must not see another's parent; shops stand in several dates' files."""
    together = write(tmp_path / "together", "REQUIRED")
    run_etl(together, spark, DATES, *settings)
    apart = write(tmp_path / "apart", "REQUIRED")
    for ds in DATES:
        run_etl(apart, spark, [ds], *SMALL)
    assert shard_contents(together) == shard_contents(apart)
    assert examples_of(together).info["states"] == examples_of(apart).info["states"]
    rows = example_rows(together)
    for row in rows.to_dict("records"):
        assert row["shop_size"] == size_of(row["ds"], row["shop"])
    refused = quarantined(together)
    assert {tuple(row["reasons"]) for row in refused} == {("no_parent:shops",)}
    assert len(refused) + len(rows) == 120
    for row in refused:
        assert size_of(row["ds"], row["raw"].split(",")[2]) is None


@pytest.mark.parametrize("settings", [SMALL, LARGE], ids=["small", "large"])
def test_a_key_twice_on_one_date_is_refused_by_it(
    tmp_path: Path, spark: SparkSession, settings: tuple[str, ...]
) -> None:
    raw = write(tmp_path, "REQUIRED")
    with (tmp_path / f"shops-{DATES[1]}.csv").open("a") as file:
        file.write("c,99\n")
    with pytest.raises(DataRefused, match=rf"'shops': 1 keys \(shop\) .*{DATES[1]}.*\(c\)"):
        run_etl(raw, spark, DATES, *settings)
    run_etl(raw, spark, [DATES[0]], *settings)


@pytest.mark.parametrize("settings", [SMALL, LARGE], ids=["small", "large"])
def test_malformed_parents_are_refused(
    tmp_path: Path, spark: SparkSession, settings: tuple[str, ...]
) -> None:
    raw = write(tmp_path, "REQUIRED")
    with (tmp_path / f"shops-{DATES[1]}.csv").open("a") as file:
        file.write("e,large\n")
    with pytest.raises(DataRefused, match="'shops' has 1 malformed rows, one is: e,large"):
        run_etl(raw, spark, DATES, *settings)


def test_two_parents_small_or_large_and_any_pieces_give_the_same(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents: list[Any] = []
    lines = "".join(f"{age},{shop},{age / 8}\n" for age in range(18, 60, 3) for shop in "abcd")
    for number, settings in enumerate((SMALL, LARGE, LARGE)):
        raw = write(tmp_path / str(number), "TWO", {"ages": "ages.csv"})
        # A null in a key meets nothing, and repeats nothing.
        (raw.folder / "ages.csv").write_text(f"age,shop,weight\n{lines},a,1.0\n,a,2.0\n")
        with (raw.folder / f"{DATES[0]}.csv").open("a") as file:
            file.write(f"{DATES[0]},1,a,1.0,NA,1\n{DATES[0]},2,NA,1.0,21,0\n")
        with monkeypatch.context() as patch:
            if number == 2:
                patch.setattr(sources, "_PIECE_BYTES", 300)
                patch.setattr(pieces, "_HEAD_BYTES", 60)
            run_etl(raw, spark, DATES, *settings)
        rows = example_rows(raw)
        contents.append((shard_contents(raw), examples_of(raw).info["states"]))
    assert contents[0] == contents[1] == contents[2]
    by_visit = rows.set_index("visit")
    assert by_visit.loc[[1, 2], "age_weight"].isna().all()
    known = rows[rows["age_weight"].notna()]
    assert (known["age_weight"] == known["age_years"] / 8).all()
    assert len(rows) == 122 and 0 < len(known) < 120
