"""The sections of the settings: what each setting means, its default and its limits."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, validate_default=True
    )


class SplitSettings(Section):
    """How rows are split. Fractions are of the hash space of the entity key."""

    train: float = Field(0.8, ge=0, le=1, description="share to train on")
    val: float = Field(0.1, ge=0, le=1, description="share that chooses the best epoch")
    test: float = Field(0.1, ge=0, le=1, description="share that the gate judges on")
    seed: int = Field(7, description="another seed, another split")

    @model_validator(mode="after")
    def _sum_is_one(self) -> SplitSettings:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the fractions add up to {total:g}; they must add up to 1")
        return self

    def fractions(self) -> dict[str, float]:
        return {"train": self.train, "val": self.val, "test": self.test}


class EtlSettings(Section):
    """Raw files to examples."""

    sources: dict[str, str] = Field(description="path or glob of each source; {ds} is the date")
    split: SplitSettings = Field(SplitSettings(), description="shares of train, val and test")
    shard_rows: int = Field(1_000_000, ge=1, description="rows a shard at most")
    row_group_rows: int = Field(16_384, ge=1, description="rows a Parquet row group at most")
    max_quarantined_fraction: float = Field(
        0.05, ge=0, le=1, description="of a date's rows; more refuse the date"
    )
    limits: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default={},
        description="greatest fraction of a date's rows by reason (unparsable:age) or kind of "
        "reason (unparsable)",
    )
    severities: dict[str, Literal["refuse", "warn", "ignore"]] = Field(
        default={}, description="what a broken expectation does, by its name (psi:age)"
    )
    dates_per_pass: int = Field(400, ge=1, description="dates that one commit holds at most")
    broadcast_max_entries: int = Field(
        500_000,
        ge=0,
        description="entries of a vocabulary that each executor holds; a larger one is joined by a "
        "shuffle",
    )


class StreamSettings(Section):
    """The order (`streams`, `window_rows`, `seed` define it) and its reading."""

    streams: int = Field(64, ge=1, description="at least the most ranks ever used")
    window_rows: int = Field(
        65_536, ge=1, description="rows mixed at once of a stream; four row groups mix well"
    )
    seed: int = Field(7, description="another seed, another order")
    memory_mb: int = Field(2_048, ge=1, description="decoded rows a rank may hold")
    decode_threads: int = Field(2, ge=1, description="of a rank, that read and decode")
    timeout_s: float = Field(
        90.0, gt=0, description="longest wait for one row group; below stall_s"
    )


class TrainSettings(Section):
    """Model, optimizer and launch."""

    model: str = Field("wide_deep", description="mlp, wide_deep, dlrm, dcn_v2, cnn, or one's own")
    hidden: tuple[int, ...] = Field((128, 64), description="widths of the MLP's layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of hidden units left out")
    bottom_hidden: tuple[int, ...] = Field((64,), min_length=1, description="dlrm's bottom MLP")
    cross_layers: int = Field(3, ge=1, description="of dcn_v2")
    embedding_dim: int | None = Field(
        None, ge=1, description="of fields that declare none; by rule when empty"
    )
    max_embedding_dim: int = Field(16, ge=1, description="cap on the rule 1.6 * rows^0.56")
    batch_rows: int = Field(8_192, ge=1, description="global batch; a multiple of stream.streams")
    epochs: int = Field(5, ge=1, description="passes over the rows; the best one's model is kept")
    optimizer: Literal["sgd", "adagrad", "adam"] = Field("adam", description="of all parameters")
    learning_rate: float = Field(1e-3, gt=0, description="the highest, after the warm-up")
    base_batch_rows: int | None = Field(
        None, ge=1, description="learning_rate is for a step of so many rows, and scales with them"
    )
    accumulate_steps: int = Field(1, ge=1, description="batches whose gradients make one step")
    weight_decay: float = Field(0.0, ge=0, description="of dense parameters")
    clip_norm: float | None = Field(None, gt=0, description="most that the gradient's norm may be")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share spread over all classes")
    positive_weight: float = Field(1.0, gt=0, description="rows that a positive row counts as")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the forward pass; bfloat16 is autocast, weights stay float32"
    )
    wire_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="of embeddings' gradients between ranks"
    )
    warmup_rows: int = Field(0, ge=0, description="rows until learning_rate is reached")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="of the learning rate")
    seed: int = Field(7, description="of the first weights and of dropout")
    curves: bool = Field(True, description="TensorBoard's, in <lake>/<dataset>/curves/<run>")
    prometheus_file: str | None = Field(
        None, description="kept up to date for node_exporter's textfile collector"
    )
    warm_start: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="model whose weights training starts from: champion, or a version",
    )
    workers: int = Field(2, ge=1, description="Horovod ranks")
    threads_per_rank: int = Field(1, ge=1, description="that torch computes with")
    start_timeout_s: int = Field(300, ge=1, description="longest wait for all ranks to start")
    stall_s: int = Field(120, ge=1, description="longest wait for a rank inside an exchange")
    window_days: int | None = Field(None, ge=1, description="days trained on; all when empty")
    best_by: Literal["auc", "loss"] = Field(
        "auc", description="of the validation rows; loss where the label's task has no AUC"
    )
    early_stop_epochs: int | None = Field(
        None, ge=1, description="stop when best_by is no better for as many epochs"
    )
    restarts: int = Field(
        2, ge=0, description="how often lost ranks are started again from the last checkpoint"
    )
    commit_steps: int = Field(
        200, ge=1, description="steps between copies in memory, which a lost rank takes all back to"
    )
    checkpoint_s: float = Field(300.0, gt=0, description="seconds between checkpoints")
    checkpoint_rows: int | None = Field(
        None, ge=1, description="rows between checkpoints, besides the seconds"
    )
    checkpoint_keep: int = Field(2, ge=1, description="the last checkpoints that are kept")
    checkpoint_timeout_s: float = Field(
        600.0, gt=0, description="longest writing of one checkpoint; then the store counts as hung"
    )

    @property
    def step_rows(self) -> int:
        """Rows of a step, all ranks together."""
        return self.batch_rows * self.accumulate_steps


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
    batch_rows: int = Field(8_192, ge=1, description="rows predicted at once")
    slices: tuple[SliceSettings, ...] = Field((), description="groups that are measured apart")
    most_values: int = Field(20, ge=1, description="groups of a slice; the others go together")
    threshold: float = Field(0.5, gt=0, lt=1, description="from here on a score predicts label 1")
    auc: Literal["exact", "binned"] = Field(
        "exact", description="binned: scores are not sorted; faster, with its error stated"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="of intervals")


METRICS = Literal[
    "auc", "pr_auc", "log_loss", "accuracy", "f1", "brier", "ece", "rmse", "mae", "r2"
]


class GateRule(Section):
    """One thing that a challenger must reach.

    `slice` empty means all rows; `origin` each group of that slice; `origin=JFK` one group. All
    that is given must hold; changes are against the champion on the same rows.
    """

    metric: METRICS = Field("auc", description="what is judged")
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
    min_rows: int = Field(100, ge=1, description="fewer rows refuse; a group of a slice is skipped")

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
        "values", description="without a champion: judge by values alone, refuse, or accept"
    )
    rows: Literal["fresh", "all"] = Field(
        "fresh",
        description="fresh: dates whose state is at least as new as both models'; all: those "
        "that the challenger was trained over",
    )


class ScoreSettings(Section):
    """Batch scoring."""

    sources: dict[str, str] | None = Field(None, description="in the place of the ETL's")
    batch_rows: int = Field(8_192, ge=1, description="rows predicted at once")
    engine: Literal["torch", "onnx"] = Field(
        "torch", description="onnx: ONNX Runtime, on a model that is exported first"
    )


class NightlySettings(Section):
    """The scheduled run. With late labels, etl, train and evaluate take an earlier date."""

    label_delay_days: int = Field(0, ge=0, description="days until a date's labels are known")
    score_with_champion: bool = Field(
        True, description="score with the champion when the data or the new model is refused"
    )
    missing_raw: Literal["refuse", "skip"] = Field(
        "refuse", description="a date of which no raw file has landed; skip records it as such"
    )
    catch_up_days: int = Field(
        7, ge=0, description="how far back missed dates after the first night are caught up"
    )


class RetentionSettings(Section):
    """Days of each table that `millstream vacuum` leaves, counted back from the table's newest
    date; all of them when empty."""

    examples_days: int | None = Field(None, ge=1, description="of examples")
    quarantine_days: int | None = Field(None, ge=1, description="of quarantine")
    predictions_days: int | None = Field(None, ge=1, description="of predictions")


class MlflowSettings(Section):
    """`tracking_uri` empty means SQLite inside the lake."""

    tracking_uri: str = Field("", description="of an MLflow server")
    experiment: str = Field("", description="its name; the data set's when empty")


class SparkSettings(Section):
    """The session that `millstream` starts; spark-submit brings its own properties."""

    properties_file: str | None = Field(None, description="Spark properties, name and value a line")
