"""Rows are scored where they are judged, and keep of their fields what a prediction keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.etl.encode.encoder import Encoder
from jobs.etl.encode.vocabulary import stage_vocabularies
from jobs.etl.fit.states import state_entries
from jobs.evaluate.predict.predict import SCORE, Predictor
from jobs.evaluate.predict.scorer import Scorer
from jobs.lake.lake import Lake
from jobs.lake.state import load_state
from jobs.registry.registry import Registry
from jobs.rows.base.names import DS, RAW, SOURCE_FILE
from schemas.dataset import ROW_ID
from tests.builders.judged import judged
from tests.builders.visits import VISITS
from tests.evaluate.conftest import SECOND, Line


@pytest.fixture
def scorer(line: Line, tmp_path: Path) -> Scorer:
    lake = Lake(line.settings.lake_url, "visits")
    model = Registry(line.settings, lake).resolve(line.model)
    state = load_state(lake, model.tags["state_digest"])
    names = {f.log_name for f in VISITS.counted}
    vocabularies = stage_vocabularies(state_entries(lake, state), names, str(tmp_path))
    return Scorer(
        Encoder(VISITS, vocabularies, state.ds), Predictor.of(model, VISITS, batch_rows=7)
    )


def test_it_keeps_what_predictions_and_duplicates_need(line: Line, scorer: Scorer) -> None:
    folder = line.raw.folder
    paths = {"visits": str(folder / "visits.csv"), "shops": str(folder / "shops.csv")}
    rows = judged(VISITS, paths, [SECOND], with_label=False).valid
    found = scorer(rows)
    assert {DS, ROW_ID, "shop", *VISITS.key, RAW, SOURCE_FILE, SCORE} == set(found.column_names)
    assert found[ROW_ID].equals(rows[ROW_ID]) and found.num_rows > 300
    # However many rows a forward has.
    whole = replace(scorer, predictor=replace(scorer.predictor, batch_rows=10_000))(rows)
    assert np.abs(found[SCORE].to_numpy() - whole[SCORE].to_numpy()).max() <= 1e-6
