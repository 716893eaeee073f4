"""A version of a registered model, and the names of those that move."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.models.identity import Identity

CHAMPION = "champion"


LATEST = "latest"


REQUIRED_TAGS = (
    "run_id",
    "state_digest",
    "examples_version",
    "declaration",
    "dates",
    "fingerprint",
    "settings",
)


@dataclass(frozen=True)
class ModelVersion:
    """A registered version. Its parts never change; aliases move.

    Attributes:
        version: number in the registry, as text.
        folder_url: of `model.safetensors` and `model.json`.
        mlflow_run: the run with its parameters and curves.
        tags: `weights_digest`, `identity`, REQUIRED_TAGS and whatever else was given.
    """

    version: str
    folder_url: str
    mlflow_run: str
    tags: dict[str, str]

    @property
    def identity(self) -> Identity | None:
        """None of a version that was registered before identities were kept."""
        text = self.tags.get("identity")
        return Identity.of_text(text) if text else None

    @property
    def digest(self) -> str:
        """By which what is kept of it is named: of its identity, or of its weights."""
        return digest_of_model(self.tags)

    @property
    def dates(self) -> tuple[str, str]:
        """First and last date that it was trained over."""
        first, _, last = self.tags["dates"].partition("..")
        return first, last or first


def digest_of_model(tags: Mapping[str, str]) -> str:
    """See `ModelVersion.digest`."""
    text = tags.get("identity")
    return Identity.of_text(text).digest if text else tags["weights_digest"]


def as_tag(value: Any) -> str:
    """A tag's text of a JSON value; the same for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
