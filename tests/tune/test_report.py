"""A study's page shows each trial, says why some failed, and holds nothing that is not escaped."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from jobs.base.errors import DataRefused
from jobs.settings.tune import TuneSettings
from jobs.tune.report import Beside, render
from jobs.tune.study import Asked, Study, stored_study

SETTINGS = TuneSettings.model_validate(
    {
        "space": {
            "train.model": ["mlp", "<b>own"],
            "train.cross_layers": {"low": 1, "high": 4, "when": {"train.model": ["<b>own"]}},
            "train.learning_rate": {"low": 1e-4, "high": 0.1, "log": True},
        },
        "trials": 16,
        "sampler": "random",
    }
)


class Tags(HTMLParser):
    """Counts tags, and refuses one that is closed wrongly."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A study in which every fifth trial failed, and others were stopped at rungs."""
    url = str(tmp_path / "studied")
    study = Study(url, SETTINGS, ("val_auc", True), {"code": "x"})
    for asked in study.generations():
        for one in asked:
            facts = {"params": one.params, "folder": "", "rows": 300, "seconds": 2.0}
            if one.number % 5 == 4:
                study.tell(one, None, {**facts, "rows": 0}, "the <i>loss</i> is not finite")
                continue
            value = 0.9 - abs(one.params["train.learning_rate"] - 0.01)
            study.report(one.number, 100, value - 0.1, {**facts, "rows": 100})
            if one.number % 3 == 2:
                study.stop([one.number])
            else:
                study.tell(one, value, facts)
    return url


def test_the_page_shows_each_trial_and_escapes_all(folder: str) -> None:
    study = stored_study(folder)
    best = study.best_trial
    columns = [
        Beside("champion & co", {"train.model": "mlp"}, {}),
        Beside("trial", best.params, {"val_auc": best.value or 0, "test auc": 0.7}),
    ]
    page = render(study, columns)
    tags = Tags(page)
    assert not tags.open
    assert "<b>own" not in page
    assert "<i>loss" not in page
    assert "champion &amp; co" in page
    assert "http" not in page
    complete = sum(one.state == TrialState.COMPLETE for one in study.trials)
    pruned = sum(one.state == TrialState.PRUNED for one in study.trials)
    # In the history, a dot a trial; over the rows, one more for each rung and each end.
    assert tags.counts["circle"] == 16 + 2 * complete + pruned
    assert page.count("<tr><th>") >= 16
    for word in ("History", "Rungs", "Settings of the trials", "What mattered", "What failed"):
        assert word in page
    assert f"{best.value:.4f}" in page


def test_a_study_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    study = Study(str(tmp_path / "begun"), SETTINGS, ("val_loss", False), {})
    assert isinstance(next(study.generations())[0], Asked)
    page = render(stored_study(str(tmp_path / "begun")), [])
    assert "under way" in page
    assert not Tags(page).open


def test_no_such_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="no study 'none'"):
        stored_study(str(tmp_path / "none"))
    assert optuna.logging.get_verbosity() >= optuna.logging.WARNING
