"""What each step of a night depends on besides the steps before it, so that a change is named.

A finished night is done again from the first step whose inputs changed. Settings that only say
how fast or how safely a night goes (Spark's, retention, how far back it catches up) are none.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from functools import cached_property

from jobs.base.code import code_digest
from jobs.base.errors import NoRawFile
from jobs.etl.raw.sources import source_paths
from jobs.rows.read.files import find_files
from jobs.settings.redact import without_users
from jobs.settings.settings import Settings

Inputs = Mapping[str, Mapping[str, str]]

_NO_FILE = "none"
_SECTIONS = {
    "etl": ("etl",),
    "train": ("stream", "train", "mlflow"),
    "evaluate": ("evaluate", "gate"),
    "gate": (),
    "score": ("score",),
    "report": (),
    # What a search follows from is in the study's name and on its record.
    "tune": (),
}
# Keys of other sections. Evaluation judges the scores of the engine that scores, and keeps the
# probe of the one that serves.
_KEYS = {
    "etl": ("nightly.label_delay_days",),
    "evaluate": ("score.engine", "serve.engine"),
    "score": ("nightly.score_with_champion",),
}


def labelled_ds(settings: Settings, ds: str) -> str:
    """The date whose labels are there in the night of `ds`."""
    delay = dt.timedelta(settings.nightly.label_delay_days)
    return str(dt.date.fromisoformat(ds) - delay)


class InputReader:
    """Reads the inputs of nights; a file is looked at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._dataset = settings.dataset()
        self._stamps: dict[tuple[str, str], dict[str, str]] = {}

    def of(self, ds: str) -> Inputs:
        """The inputs of each step of a night, by name."""
        etl, score = self._raw(labelled_ds(self._settings, ds)), self._raw_of_score(ds)
        known = {"code": self._code, "declaration": self._dataset.digest, **etl}
        if _NO_FILE in etl.values():
            known["nightly.missing_raw"] = self._settings.nightly.missing_raw
        more = {"etl": known, "score": score}
        return {step: {**dict(self._settings_of(step)), **more.get(step, {})} for step in _SECTIONS}

    def has_raw(self, ds: str) -> bool:
        """Whether the night's raw files are all there now."""
        raw = {**self._raw(labelled_ds(self._settings, ds)), **self._raw_of_score(ds)}
        return _NO_FILE not in raw.values()

    @cached_property
    def _code(self) -> str:
        return code_digest()

    def _settings_of(self, step: str) -> Iterator[tuple[str, str]]:
        tree = self._settings.model_dump(mode="json", by_alias=True)
        for section in _SECTIONS[step]:
            for key, value in tree[section].items():
                yield f"{section}.{key}", without_users(json.dumps(value, sort_keys=True))
        for name in _KEYS.get(step, ()):
            section, key = name.split(".")
            yield name, json.dumps(tree[section][key])

    def _raw(self, ds: str, sources: Mapping[str, str] | None = None) -> dict[str, str]:
        paths = source_paths(self._settings, self._dataset)
        chosen = {name: self._settings.path(path) for name, path in (sources or {}).items()}
        found: dict[str, str] = {}
        for name, path in {**paths, **chosen}.items():
            found |= self._files(name, path, ds if "{ds}" in path else "")
        return found

    def _raw_of_score(self, ds: str) -> dict[str, str]:
        """Nothing where they are those of the ETL: what changes them changes its inputs."""
        sources = self._settings.score.sources
        if not sources and labelled_ds(self._settings, ds) == ds:
            return {}
        return self._raw(ds, sources)

    def _files(self, source: str, path: str, ds: str) -> dict[str, str]:
        if (path, ds) not in self._stamps:
            try:
                files = find_files(path, [ds])
                stamps = {f"raw file {file.path}": file.stamp for file in files}
            except NoRawFile:
                stamps = {f"raw files of {source}": _NO_FILE}
            self._stamps[path, ds] = stamps
        return self._stamps[path, ds]
