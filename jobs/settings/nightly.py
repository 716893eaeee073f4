"""The sections `nightly` and `retention` of the settings."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field

from jobs.settings.section import Section

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


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
    tune_on: tuple[Weekday, ...] = Field(
        (), description="weekdays of the dates whose nights search tune.space, too"
    )
    tune_rows: int | None = Field(
        None, ge=1, description="that a night's search may train; the next one goes on"
    )
    tune_seconds: float | None = Field(
        None, gt=0, description="after which a night's search begins no more"
    )

    def searches(self, ds: str) -> bool:
        """Whether the night of a date searches."""
        return f"{dt.date.fromisoformat(ds):%A}".lower() in self.tune_on


class RetentionSettings(Section):
    """What `millstream vacuum` leaves: days of each table, counted back from the table's newest
    date, and checkpoints by their age; all of them when empty."""

    examples_days: int | None = Field(None, ge=1, description="of examples")
    quarantine_days: int | None = Field(None, ge=1, description="of quarantine")
    predictions_days: int | None = Field(None, ge=1, description="of predictions")
    served_days: int | None = Field(None, ge=1, description="of served rows")
    checkpoints_days: int | None = Field(
        30,
        ge=1,
        description="of an unfinished training, since it wrote the last one; they keep examples, "
        "as an unfinished study does for as long",
    )
