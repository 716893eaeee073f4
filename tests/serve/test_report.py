"""`millstream report --served`: what was served, beside the train rows and the batch scores."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession

from jobs.etl.fit.expect import bins_of_rows, bins_until
from jobs.etl.fit.history import CountHistory
from jobs.lake.state import load_state
from jobs.main import main
from jobs.serve.sample import SERVED
from tests.builders.lakes import lake_of
from tests.builders.servers import serving
from tests.builders.visits import VISITS, Raw
from tests.serve.conftest import Served

COLUMNS = ("day", "visit", "shop", "amount", "age")


@pytest.fixture(scope="module")
def sampled(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Raw:
    """The night's rows were served, and all of them kept."""
    folder = tmp_path_factory.mktemp("sampled")
    raw = served.raw.copy(folder / "lake")
    with serving(raw.config, folder / "log", served.parents, "serve.log_fraction=1") as server:
        server.invoke([{name: row[name] for name in COLUMNS} for row in served.night])
        assert server.end() == 0
    return raw


def report(raw: Raw, parents: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    config = ["--config", str(raw.config), "--quiet", "--set", parents]
    assert main(["report", "--served", *config, *more]) == 0
    return capsys.readouterr().out


def indices(text: str) -> dict[str, float]:
    fields = {f.name for f in (*VISITS.counted, *VISITS.measured)}
    lines = [line.split() for line in text.splitlines()]
    return {words[0]: float(words[1]) for words in lines if words and words[0] in fields}


def test_served_scores_equal_the_batch_scores(
    served: Served, sampled: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    text = report(sampled, served.parents, capsys)
    assert "served: 306 rows, 3 of them refused" in text
    assert "303 equal, 0 different, 0 by another version" in text
    assert indices(text).keys() == {f.name for f in (*VISITS.counted, *VISITS.measured)}


def test_what_differs_and_drifts_is_named(
    served: Served, sampled: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = sampled.copy(tmp_path / "lake")
    before = indices(report(raw, served.parents, capsys))
    table = lake_of(raw).table("served")
    rows = [row for row in table.read_arrow().to_pylist() if row["score"] is not None]
    (one,) = [row for row in rows if '"visit": "240103000"' in row["raw"]]
    table.append(pa.Table.from_pylist([{**one, "score": one["score"] + 0.5}], schema=SERVED))
    dear = [{**row, "raw": row["raw"].replace('"amount": "', '"amount": "9')} for row in rows]
    table.append(pa.Table.from_pylist(dear, schema=SERVED))
    text = report(raw, served.parents, capsys)
    # Of one row the amount becomes no number.
    assert "605 equal, 1 different" in text
    assert f"visit=240103000, ds=2024-01-03: served {one['score'] + 0.5:.6g}" in text
    after = indices(text)
    assert after["amount_log"] > before["amount_log"] + 0.1
    assert after["age_years"] == pytest.approx(before["age_years"], abs=0.05)


def test_where_all_rows_were_refused_the_report_says_so(
    served: Served, sampled: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = sampled.copy(tmp_path / "lake")
    table = lake_of(raw).table("served")
    for ds in table.values("ds"):
        table.rewrite_appended("ds", ds, lambda rows: rows.filter(pc.is_null(rows["score"])))
    text = report(raw, served.parents, capsys)
    assert "served: 3 rows, 3 of them refused" in text
    assert indices(text) == {}


def test_rows_that_lack_their_parents_are_left_out_by_name(
    served: Served, sampled: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(sampled.config), "--quiet"]
    assert main(["report", "--served", *config]) == 3
    assert "rows of 'shops' are not looked up here" in capsys.readouterr().err


def test_without_served_rows_there_is_no_report(
    served: Served, sampled: Raw, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(sampled.config), "--quiet"]
    assert main(["report", "--served", *config, "--date", "2020-01-01"]) == 3
    assert "no served rows were kept on 2020-01-01" in capsys.readouterr().err


def test_bins_of_rows_are_those_of_the_etl(served: Served, spark: SparkSession) -> None:
    """The train rows themselves do not drift from the train rows."""
    lake = lake_of(served.raw)
    champion = served.registry.champion()
    assert champion is not None
    state = load_state(lake, champion.tags["state_digest"])
    table = lake.table("contributions")
    bins = bins_until(CountHistory.of(spark, table, table.version()), VISITS, state.ds)
    stats = state.numeric["age_years"]
    assert sum(bins["age_years"].values()) == stats.count + stats.nulls
    amounts = pa.array([None, 0.5, 2.0], pa.float64())
    shops = pa.array(["a", None, "a"])
    valid = pa.table(
        {
            "ds": ["x", "y", "z"],
            "amount_log": amounts,
            "age_years": amounts,
            "shop_size": amounts,
            "shop_id": shops,
            "age_group": shops,
        }
    )
    found = bins_of_rows(valid, VISITS)
    assert {name: sum(own.values()) for name, own in found.items()} == dict.fromkeys(found, 3)
    shop = found[VISITS.counted[0].log_name]
    assert sorted(shop.values()) == [1, 2]
    # "a" is the most frequent of the ETL's values, in the same bin.
    assert set(shop) & set(bins[VISITS.counted[0].log_name])
    assert pc.sum(amounts.is_null()).as_py() == found["age_years"][min(found["age_years"])]
