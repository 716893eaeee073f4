"""Served rows are erased, past retention and vacuumed, beside servers that append."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.lake.lake import Lake
from jobs.lake.ledger import read_ledger
from jobs.lake.tables import Table
from jobs.main import main
from jobs.operations.compact import compact_served
from jobs.serve.sample import SERVED, append_served
from tests.builders.lakes import lake_of
from tests.builders.models import lake_of as lake_by
from tests.builders.models import register_model
from tests.builders.visits import Raw
from tests.operations.conftest import DATES

GONE, OTHER = 240101003, 240102007


def served(ds: str, *visits: object, shop: str = "a") -> pa.Table:
    moment = dt.datetime.fromisoformat(f"{ds}T12:00:00+00:00")
    rows = [
        {
            "ds": ds,
            "answered_at": moment,
            "raw": json.dumps({"age": "it's", "shop": shop, "visit": visit}),
            "score": 0.5,
            "reasons": [],
            "model_version": "1",
        }
        for visit in visits
    ]
    return pa.Table.from_pylist(rows, schema=SERVED)


@pytest.fixture
def table(raw: Raw) -> Table:
    """Rows of servers, whose clients give numbers and texts; a file an append."""
    found = lake_of(raw).table("served")
    append_served(found, served(DATES[0], GONE, f"{GONE}", OTHER, None))
    append_served(found, served(DATES[1], GONE, f"{GONE}0", float(GONE)))
    append_served(found, served(DATES[2], OTHER))
    return found


def visits_of(table: Table) -> list[tuple[str, object]]:
    rows = table.read_arrow().to_pylist()
    found = [(row["ds"], json.loads(row["raw"])["visit"]) for row in rows]
    return sorted(found, key=str)


def run(command: str, raw: Raw, *more: str) -> int:
    return main([command, "--config", str(raw.config), "--quiet", *more])


def parquet_files(table: Table) -> set[str]:
    return {path.name for path in Path(table.url).rglob("*.parquet")}


LEFT: Sequence[tuple[str, object]] = [
    (DATES[0], OTHER),
    (DATES[0], None),
    (DATES[1], f"{GONE}0"),
    (DATES[2], OTHER),
]


def test_an_entitys_served_rows_are_erased_without_a_trace(
    raw: Raw, table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("erase", raw, "--key", f"visit={GONE}") == 0
    said = capsys.readouterr().out
    assert "served 4" in said and "vacuum --older-than 0" in said
    assert visits_of(table) == sorted(LEFT, key=str)
    counts = {row["ds"]: row["counts"] for row in read_ledger(lake_of(raw), stage="erase")}
    assert {ds: own["served"] for ds, own in counts.items()} == {DATES[0]: 2, DATES[1]: 2}
    assert run("vacuum", raw, "--older-than", "0") == 0
    assert parquet_files(table) == {file.path for file in table.files()}
    log = "".join(p.read_text() for p in Path(table.url, "_delta_log").glob("*.json"))
    # Also no least or greatest text.
    assert "2024-01-01" in log and "visit" not in log.replace("visits", "")
    version = table.version()
    assert run("erase", raw, "--key", f"visit={GONE}") == 0
    assert table.version() == version


def test_two_columns_match_together(raw: Raw, table: Table) -> None:
    append_served(table, served(DATES[0], OTHER, shop="b"))
    assert run("erase", raw, "--key", f"visit={OTHER}", "shop=b") == 0
    assert len(visits_of(table)) == 8


def test_dates_past_retention_leave_what_is_appended_meanwhile(
    raw: Raw, table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    days = ("--set", "retention.served_days=2")
    assert run("vacuum", raw, "--dry-run", *days) == 0
    assert f"would drop 1 dates of served, {DATES[0]}..{DATES[0]}" in capsys.readouterr().out
    assert len(visits_of(table)) == 8
    assert run("vacuum", raw, *days) == 0
    assert {ds for ds, _ in visits_of(table)} == set(DATES[1:])

    def keep(rows: pa.Table) -> pa.Table:
        # Delta's own threads may not begin another write.
        server = threading.Thread(target=append_served, args=(table, served(DATES[2], GONE)))
        server.start()
        server.join()
        return rows.slice(0, 0)

    table.rewrite_appended("ds", DATES[1], keep)
    assert visits_of(table) == [(DATES[2], GONE), (DATES[2], OTHER)]


def test_compact_leaves_a_file_a_date_and_the_same_rows(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path), "visits")
    assert compact_served(lake, "compact-0", None) == {}
    table = lake.table("served")
    for visit in range(6):
        append_served(table, served(DATES[0], visit))
        append_served(table, served(DATES[1], visit))
    append_served(table, served(DATES[2], OTHER))
    before = visits_of(table)
    assert compact_served(lake, "compact-1", [DATES[0]]) == {DATES[0]: (6, 1)}
    assert len(table.files()) == 8 and visits_of(table) == before
    assert compact_served(lake, "compact-2", None) == {DATES[1]: (6, 1)}
    assert len(table.files()) == 3 and visits_of(table) == before
    counts = {row["ds"]: row["counts"] for row in read_ledger(lake, stage="compact")}
    assert counts[DATES[1]] == {"served_files_before": 6, "served_files": 1}
    version = table.version()
    assert compact_served(lake, "compact-3", None) == {} and table.version() == version
    # The small files are vacuum's, and no text is in the log, which is never erased.
    named = {file.path for file in table.files()}
    assert set(table.replaced_files(0)) == parquet_files(table) - named
    log = "".join(path.read_text() for path in Path(table.url, "_delta_log").glob("*.json"))
    assert DATES[0] in log and '\\"visit' not in log


def test_files_of_an_append_under_way_stay(raw: Raw, table: Table) -> None:
    young, old = (Path(table.url, f"part-{name}.parquet") for name in ("young", "old"))
    for path in (young, old):
        path.write_bytes(b"x")
    moment = time.time() - 48 * 3600
    os.utime(old, (moment, moment))
    assert run("vacuum", raw, "--older-than", "0") == 0
    assert young.exists() and not old.exists()
    assert len(visits_of(table)) == 8


def test_exports_and_probes_go_when_their_model_is_not_registered(raw: Raw) -> None:
    from jobs.registry.registry import Registry
    from jobs.settings.load import load_settings

    settings = load_settings(raw.config)
    model = register_model(settings, DATES[-1])
    lake = lake_by(settings)
    digest = Registry(settings, lake).resolve(model).digest
    files = [
        Path(lake.folder(place, name, "made", "file"))
        for place in ("exports", "probes")
        for name in (digest, "0123")
    ]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
    assert run("vacuum", raw, "--older-than", "1") == 0
    assert all(file.exists() for file in files)
    assert run("vacuum", raw, "--older-than", "0") == 0
    assert [file.exists() for file in files] == [True, False, True, False]
