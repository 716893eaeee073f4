"""A weight that follows from the label: rows that have none yet are scored all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs.evaluate import job, score
from jobs.registry.registry import Registry
from jobs.serve.champion import load_champion
from jobs.serve.request.rows import raw_rows
from jobs.settings.load import load_settings
from schemas.dataset import Dataset
from schemas.field import Weight
from tests.builders.lakes import example_rows, lake_of, run_etl
from tests.builders.models import register_model, scores_of
from tests.builders.visits import VISITS, Raw, rows_of

DS = "2024-01-01"
WEIGHED: Dataset = replace(VISITS, fields=(*VISITS.fields, Weight("weight", "1 + 9 * bought")))


def test_scoring_needs_no_weight(spark: SparkSession, tmp_path: Path) -> None:
    raw = Raw(tmp_path, declaration="tests.evaluate.test_weights:WEIGHED")
    raw.add(rows_of(DS, 400)).write()
    run_etl(raw, spark, [DS])
    settings = load_settings(raw.config)
    model, rows = register_model(settings, DS), example_rows(raw)
    expected = dict(zip(rows["visit"], scores_of(settings, model, rows), strict=True))
    job.run(settings, spark, run_id="evaluate-1", model=model)
    lines = [line.rsplit(",", 1)[0] + ",NA" for line in raw.lines]
    Raw(tmp_path, declaration=raw.declaration).add(lines).write()

    score.run(settings, spark, run_id="score-1", dates=[DS], model=model)

    found = lake_of(raw).table("predictions").read_arrow().to_pandas()
    assert dict(zip(found["visit"], found["score"], strict=True)) == pytest.approx(expected)

    version = Registry(settings, lake_of(raw)).resolve(model)
    parts = settings.serve, settings.dataset(), lake_of(raw), version
    champion = load_champion(*parts, {}, tmp_path)
    names = ("day", "visit", "shop", "amount", "age")
    columns = zip(*(line.split(",")[:-1] for line in lines[:5]), strict=True)
    texts = dict(zip(names, map(list, columns), strict=True))
    typed = {**texts, "visit": [int(t) for t in texts["visit"]]}
    typed |= {name: [float(t) for t in texts[name]] for name in ("amount",)}
    typed |= {"age": [int(t) for t in texts["age"]]}
    sizes = {shop: float(size) for size, shop in enumerate("abcd", start=1)}
    typed |= {"shops.shop": texts["shop"], "shops.size": [sizes[shop] for shop in texts["shop"]]}
    answers = champion.answers(raw_rows(settings.dataset(), typed, set()))
    assert answers.reasons == {}
    wanted = [expected[visit] for visit in typed["visit"]]
    assert answers.scores == pytest.approx(np.array(wanted), abs=1e-6)
