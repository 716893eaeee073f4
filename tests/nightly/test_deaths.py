"""A night that dies between a step's own commit and the record of it, step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.main import main
from jobs.nightly import work
from jobs.nightly.record import Record, load
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from jobs.train import job as train
from tests.builders.contents import contents
from tests.builders.lakes import lake_of
from tests.builders.nights import DATES
from tests.builders.visits import Raw, rows_of

DS = DATES[:2]


class Died(BaseException):
    """As a kill: nothing after it is done, and nobody handles it."""


def dying(*_: Any, **__: Any) -> None:
    raise Died


def dying_at(step: str, save: Callable[..., None]) -> Callable[..., None]:
    def put(lake: Any, record: Record) -> None:
        if record.steps[step].status == "done":
            raise Died
        save(lake, record)

    return put


def nightly(raw: Raw, ds: str) -> int:
    return main(["nightly", "--config", str(raw.config), "--date", ds, "--quiet"])


@pytest.mark.slow
def test_a_night_that_dies_after_every_commit_ends_as_an_undisturbed_one(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = Raw(tmp_path / "calm").add(line for ds in DS for line in rows_of(ds, 200))
    # So that the second night's model is promoted, whatever it learned from so few rows.
    calm.settings["gate"] = {"rules": [{"metric": "auc", "min_value": 0.0, "min_rows": 1}]}
    calm.write()
    assert nightly(calm, DS[0]) == 0
    hard = calm.copy(tmp_path / "hard")
    expected = nightly(calm, DS[1])

    deaths: list[tuple[Any, str, Any]] = [
        (work, "save", dying_at("etl", work.save)),
        (train, "record", dying),
        (train, "remove_checkpoints", dying),
        (work, "save", dying_at("train", work.save)),
        (work, "save", dying_at("evaluate", work.save)),
        (Registry, "_move", dying),
        (work, "save", dying_at("gate", work.save)),
        (work, "save", dying_at("score", work.save)),
        (work, "record_in_ledger", dying),
    ]
    for place, name, death in deaths:
        with monkeypatch.context() as patched, pytest.raises(Died):
            patched.setattr(place, name, death)
            nightly(hard, DS[1])

    assert nightly(hard, DS[1]) == expected == 0
    assert load(lake_of(hard), DS[1]).steps["train"].runs
    days = list(DS)
    assert contents(load_settings(hard.config), days) == contents(load_settings(calm.config), days)
    assert not list((hard.lake / "visits" / "checkpoints").iterdir())
