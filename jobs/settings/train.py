"""The sections `stream` and `train` of the settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jobs.base.errors import ConfigError
from jobs.settings.section import Section
from schemas.dataset import Dataset

# Settings of `train` that say how fast and how safely a training runs, not what it makes.
RUN_SETTINGS = frozenset(
    {
        "workers",
        "threads_per_rank",
        "start_timeout_s",
        "stall_s",
        "restarts",
        "commit_steps",
        "checkpoint_s",
        "checkpoint_rows",
        "checkpoint_keep",
        "checkpoint_whole_every",
        "checkpoint_timeout_s",
        "memory_mb",
        "table_copies",
        "curves",
        "prometheus_file",
    }
)


_Width = Annotated[int, Field(ge=1)]


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
    leave_out: tuple[str, ...] = Field(
        (), description="fields that are neither read nor given to the model"
    )
    hidden: tuple[_Width, ...] = Field((128, 64), description="widths of the MLP's layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of hidden units left out")
    bottom_hidden: tuple[_Width, ...] = Field((64,), min_length=1, description="dlrm's bottom MLP")
    cross_layers: int = Field(3, ge=1, description="of dcn_v2")
    embedding_dim: int | None = Field(
        None, ge=1, description="of fields that declare none; by rule when empty"
    )
    max_embedding_dim: int = Field(16, ge=1, description="cap on the rule 1.6 * rows^0.56")
    batch_rows: int = Field(8_192, ge=1, description="global batch; a multiple of stream.streams")
    epochs: int = Field(5, ge=1, description="passes over the rows; the best one's model is kept")
    optimizer: Literal["sgd", "adagrad", "row_adagrad", "adam"] = Field(
        "adam",
        description="of all parameters; row_adagrad is adagrad with one moment a row of a table",
    )
    learning_rate: float = Field(1e-3, gt=0, description="the highest, after the warm-up")
    base_batch_rows: int | None = Field(
        None, ge=1, description="learning_rate is for a step of so many rows, and scales with them"
    )
    accumulate_steps: int = Field(1, ge=1, description="batches whose gradients make one step")
    gradient_slices: int = Field(
        1,
        ge=1,
        description="parts of a batch whose gradients are computed apart and added up in one "
        "order, so that any number of ranks up to it gives the same bits; a divisor of "
        "stream.streams; 1: each rank's rows are a part",
    )
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
    tables: Literal["replicated", "sharded", "auto"] = Field(
        "replicated",
        description="where embedding tables are whose fields do not say: whole on each rank, in "
        "pieces, or in pieces where whole ones do not fit memory_mb",
    )
    table_buckets: int = Field(
        1_024, ge=1, description="of a sharded table; at least the most ranks ever used"
    )
    table_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="of sharded tables' rows; gradients and moments stay float32"
    )
    table_sums: Literal["rank", "batch"] = Field(
        "rank",
        description="order in which a sharded table's gradients are added up: by rank, or by the "
        "global batch; then one is sent for each id looked up, not for each distinct one",
    )
    table_copies: Literal["memory", "disk"] = Field(
        "memory",
        description="where a commit keeps a rank's two copies of sharded tables; on disk in the "
        "temporary folder",
    )
    warmup_rows: int = Field(0, ge=0, description="rows until learning_rate is reached")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="of the learning rate")
    seed: int = Field(7, ge=-(2**62), le=2**62, description="of the first weights and of dropout")
    map_tables_mb: int = Field(
        256,
        ge=0,
        description="embedding tables of this size or more get files of their own in the model; "
        "whoever scores with it maps them",
    )
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
    memory_mb: int | None = Field(
        None, ge=1, description="that a rank may take; when set, a model that needs more is refused"
    )
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
    checkpoint_whole_every: int = Field(
        10,
        ge=1,
        description="of sharded tables: one of so many checkpoints in turn has all rows, the "
        "others those that changed",
    )
    checkpoint_timeout_s: float = Field(
        600.0,
        gt=0,
        description="longest writing or reading of one GiB or less; then the store counts as hung",
    )

    @property
    def step_rows(self) -> int:
        """Rows of a step, all ranks together."""
        return self.batch_rows * self.accumulate_steps

    @property
    def keeps_moments(self) -> bool:
        """Whether models keep their optimizers' moments, which are as large as the weights: only
        where a warm start may need them."""
        return self.warm_start is not None

    def left_out(self, dataset: Dataset) -> tuple[str, ...]:
        """The fields of `leave_out`, each once, in the declaration's order.

        Raises:
            ConfigError: one is no input of a model, or no input is left.
        """
        listed = ", ".join(dataset.inputs)
        if unknown := [name for name in self.leave_out if name not in dataset.inputs]:
            raise ConfigError(
                f"train.leave_out has {unknown[0]!r}, which is no input of {dataset.name!r}",
                f"some of {listed}",
                "name fields that models see: no label, weight, key or carried field",
            )
        if len(set(self.leave_out)) == len(dataset.inputs):
            raise ConfigError(
                f"train.leave_out has all inputs of {dataset.name!r}: {listed}",
                "at least one that a model sees",
            )
        return tuple(name for name in dataset.inputs if name in self.leave_out)
