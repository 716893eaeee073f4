"""The section `etl` of the settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobs.settings.section import Section


class SplitSettings(Section):
    """How rows are split. Fractions are of the hash space of the entity key."""

    train: float = Field(0.8, ge=0, le=1, description="share to train on")
    val: float = Field(0.1, ge=0, le=1, description="share that chooses the best epoch")
    test: float = Field(0.1, ge=0, le=1, description="share that the gate decides on")
    seed: int = Field(7, ge=-(2**31), lt=2**31, description="another seed, another split")

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
    row_group_rows: int = Field(
        16_384,
        ge=1,
        description="rows a Parquet row group at most; 512 MiB of values end it sooner",
    )
    compression: Literal["snappy", "zstd"] = Field(
        "snappy", description="of the examples; zstd takes a fifth less room and longer to read"
    )
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
    broadcast_parent_mb: int = Field(
        256,
        ge=0,
        description="files of a parent that each worker holds the rows of; a larger one is brought "
        "together with its rows by a shuffle",
    )
