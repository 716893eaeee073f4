"""One line for all tests of the server: models of two dates, of which one is the champion, and the
night's predictions by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.evaluate import job as evaluate
from jobs.evaluate import score
from jobs.lake.ledger import new_run_id
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from tests.builders.lakes import run_etl
from tests.builders.models import lake_of, register_model
from tests.builders.servers import Server, serving
from tests.builders.visits import HEADER, Raw, rows_of

FIRST, SECOND, NIGHT = "2024-01-01", "2024-01-02", "2024-01-03"


@dataclass(frozen=True)
class Served:
    """A lake whose models can be served.

    Attributes:
        models: two versions, the champion first.
        night: raw rows of the night, as a file has them: texts by column.
    """

    raw: Raw
    settings: Settings
    models: tuple[str, str]
    night: list[dict[str, str]]

    @property
    def registry(self) -> Registry:
        return Registry(self.settings, lake_of(self.settings))

    @property
    def parents(self) -> str:
        """The setting by which rows of parents are looked up."""
        return f"serve.parents={{shops: {self.raw.folder / 'shops.csv'}}}"


def night_lines() -> list[str]:
    """Lines without labels, with shops that no model has seen, nulls, and bad values."""
    sound = [line.rsplit(",", 1)[0] + ",NA" for line in rows_of(NIGHT, 300)]
    return [
        *sound,
        f"{NIGHT},240103900,new_shop,2.5,30,NA",
        f"{NIGHT},240103901,NA,NA,NA,NA",
        f"{NIGHT},240103902,a,,30,",
        f"{NIGHT},240103903,a,many,30,NA",
        f"{NIGHT},240103904,a,1.0,130,NA",
        f"{NIGHT},240103905,A shop,1e3,130,NA",
    ]


def as_rows(lines: list[str]) -> list[dict[str, str]]:
    names = HEADER.split(",")
    return [dict(zip(names, line.split(","), strict=True)) for line in lines]


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Served:
    raw = Raw(tmp_path_factory.mktemp("served"))
    raw.add(rows_of(FIRST, 400, ("a", "b"))).add(rows_of(SECOND, 400)).add(night_lines()).write()
    run_etl(raw, spark, [FIRST, SECOND])
    settings = load_settings(raw.config)
    models = (register_model(settings, SECOND), register_model(settings, SECOND, seed=1))
    for model in models:
        evaluate.run(settings, spark, run_id=new_run_id("evaluate"), model=model)
    registry = Registry(settings, lake_of(settings))
    for model in reversed(models):
        registry.promote(model, new_run_id("promote"))
    score.run(settings, spark, run_id=new_run_id("score"), dates=[NIGHT])
    return Served(raw, settings, models, as_rows(night_lines()))


@pytest.fixture(scope="package")
def server(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves the champion, and looks parents up. Tests leave the champion as it is."""
    log: Path = tmp_path_factory.mktemp("server") / "log"
    with serving(served.raw.config, log, served.parents) as found:
        yield found
