"""What a rank's memory must hold: the sum that is compared with `train.memory_mb` at the start."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from jobs.base.errors import ConfigError
from jobs.models.build import embedding_tables
from jobs.settings.settings import Settings

# Tensors that the optimizer keeps beside each parameter.
_MOMENTS = {"sgd": 0, "adagrad": 1, "adam": 2}
# Python, torch, Arrow.
_REST_BYTES = 1 << 30


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of rank 0, which may be any: it writes what is kept. See `docs/cluster.md`.

    Attributes:
        tables, layers: the weights of the embedding tables, and the other ones.
        moments: tensors of the optimizer for each parameter.
        stream: of the rows that are read.
    """

    tables: int
    layers: int
    moments: int
    stream: int

    @classmethod
    def of(cls, model: nn.Module, settings: Settings) -> MemoryNeed:
        """The need of a model, which may be without values."""
        tables = {id(table.weight): table.weight for _, table in embedding_tables(model)}
        whole = sum(parameter.nbytes for parameter in model.parameters())
        of_tables = sum(table.nbytes for table in tables.values())
        moments = _MOMENTS[settings.train.optimizer]
        return cls(of_tables, whole - of_tables, moments, settings.stream.memory_mb << 20)

    @property
    def weights(self) -> int:
        return self.tables + self.layers

    @property
    def state(self) -> int:
        """Weights and moments."""
        return self.weights * (1 + self.moments)

    @property
    def total(self) -> int:
        """With three snapshots (the last commit, the one being written, the best epoch's that
        waits), and the file that is being written, twice."""
        return 4 * self.state + 2 * self.weights * max(1, self.moments) + self.stream + _REST_BYTES

    def text(self) -> str:
        """The sum, in MB."""
        parts = {
            "tables": self.tables,
            "other weights": self.layers,
            "moments": self.weights * self.moments,
            "three snapshots of these": 3 * self.state,
            "a file of a checkpoint, twice": 2 * self.weights * max(1, self.moments),
            "stream.memory_mb": self.stream,
            "the rest": _REST_BYTES,
        }
        listed = " + ".join(f"{_mb(size):,} ({name})" for name, size in parts.items())
        return f"{listed} = {_mb(self.total):,} MB"

    def refuse_excess(self, settings: Settings) -> None:
        """
        Raises:
            ConfigError: it is more than `train.memory_mb`; with the sum.
        """
        most = settings.train.memory_mb
        if most is not None and self.total > most << 20:
            raise ConfigError(
                f"a rank with all tables may take {self.text()}",
                f"at most {most:,} MB (train.memory_mb)",
                "give each rank more memory and raise train.memory_mb; or smaller tables: "
                "train.embedding_dim, the fields' max_size; or fewer moments: train.optimizer "
                "adagrad or sgd",
            )


def _mb(size: int) -> int:
    return -(-size >> 20)
