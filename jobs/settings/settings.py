"""Settings: one frozen, typed tree from a YAML file, then `--set`. Units are in the names.

Paths in the file are relative to the file itself, so a command gives the same run from any
folder. Secrets are not settings: they come from the environment that the stores read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from jobs.base.errors import ConfigError
from jobs.rows.judge.expressions import refuse_bad_expressions
from jobs.settings.etl import EtlSettings
from jobs.settings.evaluate import EvaluateSettings, GateSettings, ScoreSettings
from jobs.settings.nightly import NightlySettings, RetentionSettings
from jobs.settings.objects import load_object
from jobs.settings.observe import ObserveSettings
from jobs.settings.section import Section
from jobs.settings.serve import ServeSettings
from jobs.settings.services import MlflowSettings, SparkSettings
from jobs.settings.train import StreamSettings, TrainSettings
from jobs.settings.tune import TuneSettings
from schemas.dataset import Dataset

# Spark's patterns of paths, what delta-rs takes for no path, and escapes of URLs.
_NO_LAKE = re.compile(r"[\[\]{}*?^|\\]|%[0-9a-fA-F]{2}")


class Settings(Section):
    """The whole tree. `base` is the folder that relative paths start from."""

    declaration: str = Field(alias="schema")
    lake: str
    etl: EtlSettings
    stream: StreamSettings = StreamSettings()
    train: TrainSettings = TrainSettings()
    tune: TuneSettings = TuneSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    gate: GateSettings = GateSettings()
    score: ScoreSettings = ScoreSettings()
    serve: ServeSettings = ServeSettings()
    nightly: NightlySettings = NightlySettings()
    retention: RetentionSettings = RetentionSettings()
    mlflow: MlflowSettings = MlflowSettings()
    observe: ObserveSettings = ObserveSettings()
    spark: SparkSettings = SparkSettings()
    base: str = Field(".", exclude=True)

    @field_validator("lake")
    @classmethod
    def _lake_is_named(cls, lake: str) -> str:
        if not lake.strip():
            raise ValueError("the lake's path is empty")
        return lake

    @model_validator(mode="after")
    def _lake_has_a_path_that_all_read_alike(self) -> Settings:
        if found := _NO_LAKE.search(self.lake_url):
            raise ValueError(
                f"the lake's path {self.lake_url} has {found[0]!r}, a sign to Spark or delta-rs; "
                r"none of [ ] { } * ? ^ | \ may be in it, nor %20 and the like"
            )
        return self

    @model_validator(mode="after")
    def _batch_takes_equally_from_streams(self) -> Settings:
        if self.train.batch_rows % self.stream.streams:
            raise ValueError(
                f"train.batch_rows is {self.train.batch_rows}; it must be a multiple of "
                f"stream.streams ({self.stream.streams}), so that a batch takes equally from all"
            )
        return self

    @model_validator(mode="after")
    def _slow_store_is_named_before_ranks_are_lost(self) -> Settings:
        if self.stream.timeout_s >= self.train.stall_s:
            raise ValueError(
                f"stream.timeout_s is {self.stream.timeout_s:g}; it must be below train.stall_s "
                f"({self.train.stall_s}), or a slow store looks like a lost rank"
            )
        return self

    @model_validator(mode="after")
    def _space_has_values_that_training_takes(self) -> Settings:
        for key, value in self.tune.tried():
            try:
                self.with_train({key: value})
            except ConfigError as error:
                raise ValueError(f"tune.space: train.{key} = {value!r}: {error}") from error
        return self

    @model_validator(mode="after")
    def _paths_are_of_one_store(self) -> Settings:
        given = {
            "etl.sources": self.etl.sources,
            "score.sources": self.score.sources or {},
            "serve.parents": self.serve.parents,
        }
        paths = {f"{key}.{name}": path for key, of in given.items() for name, path in of.items()}
        for key, path in {"lake": self.lake, **paths}.items():
            if "::" in self.path(path):
                raise ValueError(
                    f"{key} is {self.path(path)}; a path must be without `::`, which fsspec takes "
                    "for a chain of stores: rename the folder, or link to it by another name"
                )
        return self

    def with_train(self, changes: Mapping[str, Any]) -> Settings:
        """The same settings with others in `train`, and without a search.

        Raises:
            ConfigError: they do not fit.
        """
        tree = {**self.model_dump(by_alias=True), "base": self.base, "tune": {}}
        try:
            return Settings.model_validate({**tree, "train": {**tree["train"], **changes}})
        except ValidationError as error:
            found = error.errors()[0]
            place = ".".join(map(str, found["loc"]))
            raise ConfigError(f"{place}: {found['msg']}" if place else found["msg"]) from error

    def path(self, path: str) -> str:
        """A path of the file as an absolute one; URLs (`s3://...`) stay."""
        if re.match(r"^[a-z][a-z0-9+.-]*://", path):
            return path
        return os.path.normpath(os.path.join(self.base, path))

    @property
    def lake_url(self) -> str:
        return self.path(self.lake)

    def dataset(self) -> Dataset:
        """The declaration that `schema` names.

        Raises:
            ConfigError: there is none, it has an expression that cannot be used, or
                `train.leave_out` does not fit it.
        """
        found = load_object(self.declaration, self.base)
        if not isinstance(found, Dataset):
            raise ConfigError(
                f"schema {self.declaration!r} is a {type(found).__name__}",
                "a schemas.dataset.Dataset",
                "name the declaration, as in schemas.flights:FLIGHTS",
            )
        _check_expressions(found)
        self.train.left_out(found)
        return found

    def digest(self) -> str:
        """Hex digest of all settings that results may follow from: not of who observes or asks."""
        text = self.model_dump_json(by_alias=True, exclude={"observe", "serve"})
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# Declarations whose expressions are known to be good, as texts: they are loaded again and again.
_CHECKED: set[str] = set()


def _check_expressions(dataset: Dataset) -> None:
    if (text := repr(dataset)) in _CHECKED:
        return
    refuse_bad_expressions(dataset)
    _CHECKED.add(text)
