"""The sections `evaluate`, `gate` and `score` of the settings."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator, model_validator

from jobs.settings.section import Section

METRICS = Literal[
    "auc", "pr_auc", "log_loss", "accuracy", "f1", "brier", "ece", "rmse", "mae", "r2"
]


class SliceSettings(Section):
    """Rows that are measured apart: by the values of stored columns, crossed where several.

    As text: `origin`, or `origin x month`.
    """

    by: tuple[str, ...] = Field(min_length=1, description="stored columns")
    buckets: dict[str, tuple[float, ...]] = Field(
        {}, description="rising lower edges of a numeric column's buckets"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return {"by": tuple(part.strip() for part in value.split(" x "))}

    @model_validator(mode="after")
    def _edges_rise(self) -> SliceSettings:
        for name, edges in self.buckets.items():
            if name not in self.by:
                raise ValueError(f"buckets of {name!r}, which is not in by")
            if not edges or any(a >= b for a, b in pairwise(edges)):
                raise ValueError(f"the buckets of {name!r} are {list(edges)}; give rising edges")
        return self

    @property
    def name(self) -> str:
        return " x ".join(self.by)


class EvaluateSettings(Section):
    """What is measured."""

    split: str = Field("test", description="whose rows are measured")
    calibration_bins: int = Field(10, ge=2, description="of the calibration curve")
    batch_rows: int = Field(2_048, ge=1, description="rows predicted at once")
    slices: tuple[SliceSettings, ...] = Field((), description="groups that are measured apart")
    most_values: int = Field(20, ge=1, description="groups of a slice; the others go together")
    threshold: float = Field(0.5, gt=0, lt=1, description="from here on a score predicts label 1")
    auc: Literal["exact", "binned"] = Field(
        "exact", description="binned: scores are not sorted; faster, with its error stated"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="of intervals")

    @field_validator("slices")
    @classmethod
    def _differ(cls, slices: tuple[SliceSettings, ...]) -> tuple[SliceSettings, ...]:
        for place, one in enumerate(slices):
            if one in slices[:place]:
                raise ValueError(
                    f"slice {one.name!r} is declared twice; its rows would count twice"
                )
        return slices


class GateRule(Section):
    """One thing that a challenger must reach.

    `slice` empty means all rows; `origin` each group of that slice; `origin=JFK` one group. All
    that is given must hold; changes are against the champion on the same rows.
    """

    metric: METRICS = Field("auc", description="what is measured")
    slice: str = Field("", description="one of evaluate.slices, or one group of it")
    min_value: float | None = Field(None, description="least value")
    max_value: float | None = Field(None, description="greatest value")
    min_gain: float | None = Field(None, description="least improvement; 0 means any")
    min_relative_gain: float | None = Field(
        None, description="least improvement, as a share of the champion's value"
    )
    max_loss: float | None = Field(
        None,
        ge=0,
        description="the interval of the change must exclude a worsening by more than this",
    )
    min_rows: int = Field(
        100,
        ge=1,
        description="fewer rows refuse; a group of a slice is skipped, but not all of them",
    )

    @model_validator(mode="after")
    def _asks_something(self) -> GateRule:
        limits = (self.min_value, self.max_value, *self.changes)
        if all(limit is None for limit in limits):
            raise ValueError(
                "a rule without a threshold: give min_value, max_value, min_gain, "
                "min_relative_gain or max_loss"
            )
        return self

    @property
    def changes(self) -> tuple[float | None, ...]:
        """Thresholds that need a champion."""
        return self.min_gain, self.min_relative_gain, self.max_loss


class GateSettings(Section):
    """What a challenger must reach to become champion; without a rule nothing passes."""

    rules: tuple[GateRule, ...] = Field((), description="all must hold")
    first_model: Literal["values", "refuse", "accept"] = Field(
        "values", description="without a champion: decide by values alone, refuse, or accept"
    )
    rows: Literal["fresh", "all"] = Field(
        "fresh",
        description="fresh: dates whose state is at least as new as both models'; all: those "
        "that the challenger was trained over",
    )


class ScoreSettings(Section):
    """Batch scoring."""

    sources: dict[str, str] | None = Field(None, description="in the place of the ETL's")
    batch_rows: int = Field(2_048, ge=1, description="rows predicted at once")
    engine: Literal["torch", "onnx"] = Field(
        "torch", description="onnx: ONNX Runtime, on a model that is exported first"
    )
