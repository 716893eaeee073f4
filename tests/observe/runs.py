"""Runs to observe, without Spark: settings with a section `observe`, and a lake's name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from jobs.lake.lake import Lake
from jobs.observe.run import Run, observed
from jobs.settings.settings import Settings

DATES = ("2024-01-01", "2024-01-02")


def settings_of(folder: Path, **observe: Any) -> Settings:
    return Settings.model_validate(
        {
            "schema": "tests.builders.visits:VISITS",
            "lake": "lake",
            "etl": {"sources": {"visits": "raw/{ds}.csv", "shops": "s3://raw/shops.csv"}},
            "observe": observe,
            "base": str(folder),
        }
    )


def run_of(
    settings: Settings, stage: str, run_id: str = "", dates: Sequence[str] = DATES
) -> AbstractContextManager[Run]:
    lake = Lake(settings.lake_url, "visits")
    return observed(settings, lake, stage, run_id or f"{stage}-1", dates)


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
