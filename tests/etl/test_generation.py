"""Generations: a changed declaration is refused until a rebuild; old models keep their own ids."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import DataRefused
from jobs.evaluate import job as evaluate
from jobs.evaluate import score
from jobs.lake.state import load_state
from jobs.main import main
from jobs.settings.load import load_settings
from jobs.train.job import select_dates
from schemas.field import Carried, Numeric
from tests.builders import visits
from tests.builders.lakes import example_rows, examples_of, lake_of, quarantined, run_etl
from tests.builders.models import register_model
from tests.builders.visits import VISITS, Raw, rows_of

DATES = ["2024-01-01", "2024-01-02"]
# Without the transform, and with a further column.
CHANGED = replace(
    VISITS,
    fields=tuple(
        Numeric(f.name, f.expr) if f.name == "amount_log" else f
        for f in (*VISITS.fields, Carried("age", type="int"))
    ),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    lines = [line for ds in DATES for line in rows_of(ds, 60)]
    bad = [f"{ds},5,a,1,30,NA" for ds in DATES]
    raw = Raw(tmp_path_factory.mktemp("made")).add([*lines, *bad]).write()
    run_etl(raw, spark, DATES)
    return raw


@pytest.fixture
def raw(made: Raw, tmp_path: Path) -> Raw:
    return made.copy(tmp_path / "copy")


def test_a_changed_declaration_is_refused_by_field_until_a_rebuild(
    raw: Raw,
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = examples_of(raw)
    monkeypatch.setattr(visits, "VISITS", CHANGED)
    etl = ["etl", "--config", str(raw.config), "--date", DATES[1], "--quiet"]
    assert main(etl) == 3
    error = capsys.readouterr().err
    assert "fields age, amount_log differ" in error
    assert "millstream etl --rebuild" in error
    with pytest.raises(DataRefused, match="fields age, amount_log differ"):
        select_dates(before, CHANGED, None, None)
    assert examples_of(raw).version == before.version

    assert main([*etl, "--rebuild"]) == 0
    after = examples_of(raw)
    assert after.info["generation"] == before.info["generation"] + 1
    assert list(after.info["states"]) == DATES[1:]
    rows = example_rows(raw)
    assert set(rows["ds"]) == {DATES[1]}
    assert rows["age"].notna().all()
    assert {row["ds"] for row in quarantined(raw)} == {DATES[1]}
    # What was there can still be read by its version.
    assert sum(shard.rows for shard in before.shards()) == 120


@pytest.mark.slow
def test_refit_forgets_values_that_no_row_has_any_more(
    raw: Raw, spark: SparkSession, tmp_path: Path
) -> None:
    Raw(raw.folder).add(
        line for ds in DATES for line in rows_of(ds, 60, shops=("a", "b", "new"))
    ).write()
    run_etl(raw, spark, DATES)
    assert main(["refit", "--config", str(raw.config), "--quiet"]) == 0
    fresh = Raw(tmp_path / "fresh", lines=(raw.folder / "visits.csv").read_text().splitlines()[1:])
    run_etl(fresh.write(), spark, DATES)
    ours, theirs = example_rows(raw), example_rows(fresh)
    assert ours.equals(theirs)
    refitted, first = (
        load_state(lake_of(one), examples_of(one).info["states"][DATES[1]]) for one in (raw, fresh)
    )
    assert refitted.vocabulary == first.vocabulary
    assert refitted.numeric == first.numeric
    assert (refitted.generation, first.generation) == (2, 1)


@pytest.mark.slow
def test_a_model_of_an_older_generation_scores_but_reads_no_new_examples(
    raw: Raw, spark: SparkSession
) -> None:
    settings = load_settings(raw.config)
    version = register_model(settings, DATES[1])
    score.run(settings, spark, run_id="score-1", dates=DATES[:1], model=version)
    before = lake_of(raw).table("predictions").read_arrow().sort_by("row_id")
    run_etl(raw, spark, DATES[:1], rebuild=True)
    newest = examples_of(raw).version
    with pytest.raises(
        DataRefused, match=r"ids of generation 1; the examples have .* generation 2"
    ):
        evaluation = evaluate.Evaluation(settings, spark, "evaluate-1")
        model = evaluation.registry.resolve(version)
        selection = evaluation.selection(model, None)
        newer = replace(selection.examples, version=newest)
        evaluation.measure(model, replace(selection, examples=newer))
    # The first model of the new generation is judged by its own values.
    evaluation.registry.promote(version, "promote-1")
    challenger = register_model(settings, DATES[0], seed=1)
    compared = evaluate.compare(settings, spark, run_id="evaluate-2", challenger=challenger)
    assert compared.champion is None
    assert compared.verdict.passed

    score.run(settings, spark, run_id="score-2", dates=DATES[:1], model=version)
    after = lake_of(raw).table("predictions").read_arrow().sort_by("row_id")
    assert after["score"].equals(before["score"])


def test_a_state_that_is_not_what_its_name_says_is_refused(raw: Raw) -> None:
    digest = examples_of(raw).info["states"][DATES[0]]
    file = raw.lake / "visits" / "states" / digest / "state.json"
    tree = json.loads(file.read_text())
    tree["numeric"]["age_years"]["buckets"][0][1] += 1
    file.write_text(json.dumps(tree))
    with pytest.raises(DataRefused, match=f"digest {digest}"):
        load_state(lake_of(raw), digest)
