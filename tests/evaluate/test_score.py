"""Scoring: each valid raw row once, by one model, in one commit, and a rerun changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyspark.sql import SparkSession

from jobs.base.errors import DataRefused, Locked
from jobs.evaluate import score
from jobs.lake.lake import Lake
from jobs.lake.ledger import read_ledger
from jobs.lake.lock import stage_lock
from jobs.models.build import Model
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from tests.builders.lakes import example_rows, quarantined
from tests.builders.models import register_model, scores_of
from tests.builders.visits import Raw, rows_of
from tests.evaluate.conftest import FIRST, NIGHT, SECOND, Line


@pytest.fixture(scope="module")
def night(line: Line, spark: SparkSession) -> Line:
    """The line with its model as champion, and its night scored once."""
    Registry(line.settings, _lake(line.settings)).promote(line.model, "nightly-1")
    _score(line, spark, "score-1")
    return line


def _lake(settings: Settings) -> Lake:
    return Lake(settings.lake_url, "visits")


def _score(
    line: Line, spark: SparkSession, run: str, dates: tuple[str, ...] = (NIGHT,), **given: Any
) -> score.ScoreResult:
    settings = given.pop("settings", line.settings)
    return score.run(settings, spark, run_id=run, dates=dates, **given)


def _predictions(line: Line) -> pd.DataFrame:
    table = _lake(line.settings).table("predictions")
    return table.read_arrow().to_pandas().sort_values(["ds", "visit"], ignore_index=True)


def _ledger(line: Line, run: str) -> dict[str, dict[str, Any]]:
    return {row["ds"]: row for row in read_ledger(_lake(line.settings), run=run)}


def test_every_valid_row_is_predicted_once_and_the_others_are_counted(night: Line) -> None:
    found = _predictions(night).query("ds == @NIGHT")

    assert found.columns.tolist() == [
        "row_id",
        "visit",
        "shop",
        "score",
        "model_version",
        "run_id",
        "ds",
    ]
    assert found["visit"].is_unique
    assert len(found) == 61
    assert {240103900, 240103901, 240103902} <= set(found["visit"])
    assert found["score"].dtype == np.float32
    assert set(found["model_version"]) == {night.model}
    assert set(found["run_id"]) == {"score-1"}
    assert found.loc[found["visit"] == 240103900, "shop"].item() == "new_shop"

    refused = [tuple(row["reasons"]) for row in quarantined(night.raw, "score")]
    assert sorted(refused) == [
        ("above_max:age",),
        ("duplicate_key",),
        ("malformed",),
        ("unparsable:amount",),
    ]
    row = _ledger(night, "score-1")[NIGHT]
    assert row["counts"] == {"raw": 65, "predicted": 61, "quarantined": 4}
    assert not list(Path(_lake(night.settings).table("judged").url).glob("run=*"))
    assert row["status"] == "done"
    assert row["versions"]["model"] == night.model


def test_the_same_date_again_changes_nothing_but_the_ledger(
    spark: SparkSession, night: Line
) -> None:
    table = _lake(night.settings).table("predictions")
    before, version = _predictions(night), table.version()
    quarantine = _lake(night.settings).table("quarantine").version()

    found = _score(night, spark, "score-again")

    assert not found.changed
    assert found.version == version == table.version()
    assert _lake(night.settings).table("quarantine").version() == quarantine
    pd.testing.assert_frame_equal(_predictions(night), before)
    assert not Path(table.url, "run=score-again").exists()
    first, second = (_ledger(night, run)[NIGHT] for run in ("score-1", "score-again"))
    assert second["status"] == "unchanged"
    assert second["counts"] == first["counts"]
    assert second["digests"] == first["digests"]


def test_a_ledger_row_that_a_kill_took_is_written_by_the_next_run(
    spark: SparkSession, night: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(score, "record_committed", _dies)
        with pytest.raises(KeyboardInterrupt):
            _score(night, spark, "score-killed", (SECOND,))
    found = _score(night, spark, "score-next", (SECOND,))
    assert not found.changed
    killed, after = (_ledger(night, run)[SECOND] for run in ("score-killed", "score-next"))
    assert killed["status"] == "done"
    assert all(killed[name] == after[name] for name in ("counts", "digests", "versions"))


def _dies(*_: object) -> None:
    raise KeyboardInterrupt


def test_another_model_replaces_its_dates_alone(spark: SparkSession, night: Line) -> None:
    _score(night, spark, "score-second", (SECOND,))
    before = _predictions(night)
    other = register_model(night.settings, SECOND, seed=3)

    found = _score(night, spark, "score-other", (SECOND,), model=other)

    after = _predictions(night)
    assert found.changed
    is_night = after["ds"] == NIGHT
    pd.testing.assert_frame_equal(after[is_night], before[before["ds"] == NIGHT])
    assert set(after.loc[~is_night, "model_version"]) == {other}
    assert len(after[~is_night]) == 400


def test_scores_are_those_of_training_for_the_same_rows(spark: SparkSession, line: Line) -> None:
    _score(line, spark, "score-law", (FIRST, SECOND), model=line.model)

    found = _predictions(line).query("ds in (@FIRST, @SECOND)").set_index("visit")["score"]
    rows = example_rows(line.raw)
    assert len(found) == len(rows) == 800
    expected = pd.Series(scores_of(line.settings, line.model, rows), rows["visit"])
    # The first date's examples know no shop of the second; scoring knows the model's whole state.
    known = rows.set_index("visit")["shop_id"] > 4
    assert known.sum() > 500
    assert np.abs(found - expected)[known].max() <= 1e-6
    info = _lake(line.settings).table("predictions").commit_info()
    assert info["model_version"] == line.model
    assert info["versions"]["quarantine"] >= 0


def test_sources_of_scoring_may_be_others(spark: SparkSession, night: Line, tmp_path: Path) -> None:
    other = Raw(tmp_path).add(rows_of("2024-02-01", 5)).write("other.csv")
    place = str(other.folder / "other.csv")
    settings = load_settings(night.raw.config, [f"score.sources={{visits: {place}}}"])

    found = _score(night, spark, "score-elsewhere", ("2024-02-01",), settings=settings)

    assert {ds: counts.valid for ds, counts in found.counts.items()} == {"2024-02-01": 5}


@pytest.mark.parametrize(("most_mb", "day"), [(0, "2024-02-05"), (256, "2024-02-06")])
def test_files_without_the_columns_of_the_label_have_the_same_scores(
    most_mb: int, day: str, spark: SparkSession, night: Line, tmp_path: Path
) -> None:
    raw = Raw(tmp_path).add(rows_of(day, 50)).write("labelled.csv")
    lines = (tmp_path / "labelled.csv").read_text().splitlines()
    text = "".join(line.rsplit(",", 1)[0] + "\n" for line in lines)
    (tmp_path / "bare.csv").write_text(text)
    for name in ("labelled.csv", "bare.csv"):
        given = [f"score.sources={{visits: {raw.folder / name}}}"]
        settings = load_settings(night.raw.config, [*given, f"etl.broadcast_parent_mb={most_mb}"])
        found = _score(night, spark, f"score-{most_mb}-{name}", (day,), settings=settings)
        assert {ds: counts.valid for ds, counts in found.counts.items()} == {day: 50}
        assert found.changed == (name == "labelled.csv")


def test_undated_rows_are_counted_on_a_line_of_their_own(
    spark: SparkSession, night: Line, tmp_path: Path
) -> None:
    raw = Raw(tmp_path).add([*rows_of("2024-02-02", 5), "someday,1,a,1.0,30,NA"]).write("u.csv")
    settings = load_settings(
        night.raw.config, [f"score.sources={{visits: {raw.folder / 'u.csv'}}}"]
    )

    _score(night, spark, "score-undated", ("2024-02-02",), settings=settings)
    again = _score(night, spark, "score-undated-2", ("2024-02-02",), settings=settings)

    counts = {ds: row["counts"] for ds, row in _ledger(night, "score-undated").items()}
    assert counts == {
        "2024-02-02": {"raw": 5, "predicted": 5, "quarantined": 0},
        "undated": {"raw": 1, "predicted": 0, "quarantined": 1},
    }
    assert not again.changed


def test_what_cannot_be_scored_is_refused_by_name(
    spark: SparkSession, night: Line, tmp_path: Path
) -> None:
    version = _lake(night.settings).table("predictions").version()
    lost = Raw(tmp_path).add([f"2024-02-03,{n},a,many,30,NA" for n in range(3)]).write("lost.csv")
    settings = load_settings(
        night.raw.config, [f"score.sources={{visits: {lost.folder / 'lost.csv'}}}"]
    )

    with pytest.raises(DataRefused, match="no rows for 2025-01-01"):
        _score(night, spark, "score-empty", (NIGHT, "2025-01-01"))
    with pytest.raises(DataRefused, match="no model '99' of visits"):
        _score(night, spark, "score-none", model="99")
    with pytest.raises(DataRefused, match=r"all 3 rows are refused\n +3  unparsable:amount"):
        _score(night, spark, "score-lost", ("2024-02-03",), settings=settings)

    assert _lake(night.settings).table("predictions").version() == version
    assert _ledger(night, "score-lost")["2024-02-03"]["status"] == "refused"


def test_a_model_that_gives_no_number_commits_nothing(spark: SparkSession, night: Line) -> None:
    def broken(model: Model) -> None:
        next(model.parameters()).fill_(torch.nan)

    version = register_model(night.settings, SECOND, seed=9, change=broken)
    before = _predictions(night)

    with pytest.raises(DataRefused, match=r"no finite score: ds=2024-01-03, visit=\d+"):
        _score(night, spark, "score-nan", model=version)

    pd.testing.assert_frame_equal(_predictions(night), before)


def test_damaged_weights_are_refused(spark: SparkSession, night: Line) -> None:
    version = register_model(night.settings, SECOND, seed=11)
    folder = Registry(night.settings, _lake(night.settings)).resolve(version).folder_url
    weights = Path(folder, "model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    with pytest.raises(DataRefused, match="have digest"):
        _score(night, spark, "score-damaged", model=version)


def test_a_second_run_at_once_is_refused(spark: SparkSession, night: Line) -> None:
    with (
        stage_lock(_lake(night.settings), "score", "score-first"),
        pytest.raises(Locked, match="score-first"),
    ):
        _score(night, spark, "score-late")


def test_without_a_champion_nothing_is_scored(spark: SparkSession, line: Line) -> None:
    empty = line.settings.model_copy(update={"lake": str(line.raw.folder / "empty")})

    with pytest.raises(DataRefused, match="no model 'champion' of visits"):
        _score(line, spark, "score-nobody", settings=empty)


def test_predictions_open_in_other_engines(night: Line) -> None:
    table = _lake(night.settings).table("predictions").read_arrow()

    assert table.schema.field("score").type == pa.float32()
    assert table.schema.field("visit").type == pa.int32()
