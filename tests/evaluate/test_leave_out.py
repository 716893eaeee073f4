"""A field that is left out changes nothing: no weight in training, no score anywhere after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError
from jobs.evaluate import job as evaluate
from jobs.evaluate import score
from jobs.evaluate.export.export import export_version
from jobs.models.artifact import load_model
from jobs.registry.registry import Registry
from jobs.serve.champion import Champion, load_champion
from jobs.serve.request.rows import raw_rows
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from jobs.train import job as train
from tests.builders.lakes import lake_of, run_etl
from tests.builders.visits import HEADER, Raw, rows_of

DS = "2024-01-01"
LEFT_OUT = ("amount_log", "age_group")
QUICK = ("train.epochs=2", "train.batch_rows=64", f"train.leave_out=[{', '.join(LEFT_OUT)}]")


@dataclass(frozen=True)
class Line:
    """A lake with a model, which was trained and has scored its own rows."""

    raw: Raw
    settings: Settings
    model: str

    @property
    def lines(self) -> list[str]:
        return [line for line in self.raw.lines if line.startswith(DS)]

    def scores(self) -> pd.Series:
        rows = lake_of(self.raw).table("predictions").read_arrow().to_pandas()
        return rows.set_index("visit")["score"].sort_index()

    def champion(self, folder: Path) -> Champion:
        version = Registry(self.settings, lake_of(self.raw)).resolve(self.model)
        parts = self.settings.serve, self.settings.dataset(), lake_of(self.raw)
        return load_champion(*parts, version, {}, folder)


def line_of(folder: Path, spark: SparkSession, lines: list[str]) -> Line:
    raw = Raw(folder).add(lines).write()
    run_etl(raw, spark, [DS])
    settings = load_settings(raw.config, QUICK)
    model = train.run(settings, spark, run_id="train-1", workers=1).version
    evaluate.run(settings, spark, run_id="evaluate-1", model=model)
    score.run(settings, spark, run_id="score-1", dates=[DS], model=model)
    return Line(raw, settings, model)


def with_other_amounts(lines: list[str]) -> list[str]:
    """The same rows with other values, null among them, of what `amount_log` is made of."""
    parts = [line.split(",") for line in lines]
    amounts = ["NA" if n % 3 == 0 else str(7.0 + n % 11) for n in range(len(parts))]
    return [
        ",".join([*one[:3], amount, *one[4:]]) for one, amount in zip(parts, amounts, strict=True)
    ]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> tuple[Line, Line]:
    rows = rows_of(DS, 600)
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    return line_of(folders[0], spark, rows), line_of(folders[1], spark, with_other_amounts(rows))


def test_weights_and_scores_are_those_of_any_values(lines: tuple[Line, Line]) -> None:
    one, other = lines
    versions = [Registry(line.settings, lake_of(line.raw)).resolve(line.model) for line in lines]
    first, second = (load_model(version.folder_url) for version in versions)
    assert first.digest == second.digest
    assert first.spec.left_out == LEFT_OUT
    assert (first.spec.num_dense, len(first.spec.table_rows)) == (2, 1)
    scores = one.scores()
    assert len(scores) == 600
    assert np.ptp(scores) > 0.05
    pd.testing.assert_series_equal(scores, other.scores(), check_exact=True)


def test_onnx_scores_as_torch_does(lines: tuple[Line, Line], spark: SparkSession) -> None:
    _, other = lines
    before = other.scores()
    settings = load_settings(other.raw.config, [*QUICK, "score.engine=onnx"])
    score.run(settings, spark, run_id="score-2", dates=[DS], model=other.model)
    assert np.abs(other.scores() - before).max() <= 1e-5


@pytest.mark.parametrize("format_", ["onnx", "torchscript"])
def test_an_export_takes_what_is_left(
    lines: tuple[Line, Line], tmp_path: Path, format_: str
) -> None:
    line, _ = lines
    version = Registry(line.settings, lake_of(line.raw)).resolve(line.model)
    folder = tmp_path / format_
    # It checks the file's scores itself.
    export_version(
        lake_of(line.raw),
        version,
        line.settings.dataset(),
        "onnx" if format_ == "onnx" else "torchscript",
        str(folder),
    )
    assert '"left_out"' in (folder / "model.json").read_text()


def test_the_server_answers_as_scoring_does(lines: tuple[Line, Line], tmp_path: Path) -> None:
    one, other = lines
    champion = one.champion(tmp_path)
    shops = pd.read_csv(one.raw.folder / "shops.csv").set_index("shop")["size"]
    for line in (one, other):
        rows = [dict(zip(HEADER.split(","), text.split(","), strict=True)) for text in line.lines]
        columns = {name: [row[name] for row in rows] for name in HEADER.split(",")}
        columns["shops.size"] = [float(shops[row["shop"]]) for row in rows]
        found = champion.answers(raw_rows(line.settings.dataset(), columns, set()))
        assert not found.reasons
        by_visit = pd.Series(found.scores, [int(row["visit"]) for row in rows]).sort_index()
        np.testing.assert_allclose(by_visit, one.scores(), rtol=0, atol=1e-6)
    kinds = champion.inputs.kinds
    assert (kinds["dense"][1], kinds["sparse"][1]) == ((2,), (1,))


def test_a_model_with_other_fields_is_no_warm_start(
    lines: tuple[Line, Line], spark: SparkSession
) -> None:
    line, _ = lines
    settings = load_settings(line.raw.config, [QUICK[1], f"train.warm_start={line.model}"])
    with pytest.raises(ConfigError, match="another left_out"):
        train.run(settings, spark, run_id="train-2", workers=1)
    same = load_settings(line.raw.config, [*QUICK, f"train.warm_start={line.model}"])
    assert train.run(same, spark, run_id="train-3", workers=1).best.val_auc is not None


def test_settings_that_leave_out_no_field_are_refused(lines: tuple[Line, Line]) -> None:
    settings = load_settings(lines[0].raw.config, ["train.leave_out=[nothing]"])
    with pytest.raises(ConfigError, match="'nothing', which is no input of 'visits'"):
        settings.dataset()
