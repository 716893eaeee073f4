"""The model registry. The only module that imports MLflow, and late: its import costs seconds.

MLflow keeps what a model is (tags), how it was made (parameters, curves) and which version is the
champion. The files lie in the lake, named by the digest of the weights. By default MLflow's
database is SQLite inside the lake: its file store tears when an alias moves under a reader.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jobs.errors import DataRefused, Locked
from jobs.evaluate import promotions
from jobs.evaluate.model_files import (
    guarded,
    keep_model,
    lengthen,
    local_path,
    model_folder,
    shorten,
    weights_digest,
)
from jobs.lake import Lake
from jobs.lock import stage_lock
from jobs.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
_LOG = logging.getLogger("millstream.registry")


@dataclass(frozen=True)
class ModelVersion:
    """A registered version. Its parts never change; aliases move.

    Attributes:
        version: number in the registry, as text.
        folder_url: of `model.safetensors` and `model.json`.
        mlflow_run: the run with its parameters and curves.
        tags: `weights_digest`, REQUIRED_TAGS and whatever else was given.
    """

    version: str
    folder_url: str
    mlflow_run: str
    tags: dict[str, str]

    @property
    def dates(self) -> tuple[str, str]:
        """First and last date that it was trained over."""
        first, _, last = self.tags["dates"].partition("..")
        return first, last or first


class Registry:
    """The registered models of one data set."""

    def __init__(self, settings: Settings, lake: Lake) -> None:
        self.lake = lake
        self.name = lake.url.rstrip("/").rsplit("/", 1)[-1]
        self._experiment = settings.mlflow.experiment or self.name
        self._uri = settings.mlflow.tracking_uri

    # Reading

    def resolve(self, model: str) -> ModelVersion:
        """The version that a number, an alias or "latest" stands for now.

        Raises:
            DataRefused: there is none.
        """
        found = self.champion() if model == CHAMPION else self._find(model)
        if found is None:
            raise DataRefused(
                f"no model {model!r} of {self.name} in the registry {self.uri}",
                f"a version, an alias or {LATEST!r}",
                "train a model first; only a passed gate makes a champion",
            )
        return found

    def champion(self) -> ModelVersion | None:
        """The version that is live. Completes a promotion that was cut short."""
        intended = promotions.unfinished(self.lake)
        if intended is not None:
            self._finish(intended)
        found = self._find(CHAMPION)
        moves = promotions.moves(self.lake)
        if moves and (found is None or found.version != moves[-1]["versions"]["to"]):
            _LOG.warning(
                "alias %r of %s is at version %s; the ledger's last promotion was to %s",
                CHAMPION,
                self.name,
                found.version if found else "none",
                moves[-1]["versions"]["to"],
            )
        return found

    def versions(self) -> list[ModelVersion]:
        """All versions, oldest first."""
        if not self._uri and not local_path(self.lake, "mlflow.db").exists():
            return []
        found = self._client.search_model_versions(f"name='{self.name}'")
        return [self._version(one) for one in sorted(found, key=lambda one: int(one.version))]

    def evaluation(self, version: ModelVersion) -> dict[str, float]:
        """What `log_metrics` was last given of a version, by `SPLIT.METRIC`."""
        values = self._client.get_run(version.mlflow_run).data.metrics
        return {
            name.removeprefix("eval."): value
            for name, value in values.items()
            if name.startswith("eval.")
        }

    def metrics_by_epoch(self, version: ModelVersion) -> dict[str, list[float]]:
        """The training curves: for each metric, its value by epoch."""
        names = self._client.get_run(version.mlflow_run).data.metrics
        history = {
            name: self._client.get_metric_history(version.mlflow_run, name) for name in names
        }
        return {
            name: [point.value for point in sorted(points, key=lambda point: int(point.step))]
            for name, points in sorted(history.items())
            if not name.startswith("eval.")
        }

    # Writing

    def register(
        self,
        folder: str,
        metrics_by_epoch: Sequence[Mapping[str, float]],
        tags: Mapping[str, str],
        params: Mapping[str, Any],
    ) -> str:
        """Copies a saved model into the lake and registers it.

        The same weights with the same tags (but for `run_id`) are registered once: a replay gets
        the version that stands.

        Args:
            folder: where `jobs.train.artifact.save_model` wrote.
            metrics_by_epoch: one mapping an epoch.
            tags: at least REQUIRED_TAGS; fingerprint and settings as JSON, dates as A..B.
            params: for reading in MLflow.

        Returns:
            The version.
        """
        if missing := [name for name in REQUIRED_TAGS if not tags.get(name)]:
            raise ValueError(f"register: tags are missing: {', '.join(missing)}")
        digest = weights_digest(folder)
        stored = {name: shorten(self.lake, text) for name, text in tags.items()}
        stored["weights_digest"] = digest
        client = self._client
        with self._guard():
            keep_model(self.lake, folder, digest)
            for found in client.search_model_versions(f"name='{self.name}'"):
                if _same_but_run(found.tags, stored):
                    return str(found.version)
            run = self._log_run(tags["run_id"], metrics_by_epoch, params)
            self._ensure_model()
            # A tracking server takes no source outside the run's own folder, so the model's place
            # follows from its digest, and a lake may be moved with its models.
            made = client.create_model_version(
                self.name, run.artifact_uri, run.run_id, tags=stored, await_creation_for=0
            )
        return str(made.version)

    def log_metrics(self, version: str, metrics: Mapping[str, float]) -> None:
        """Adds measured values to the version's MLflow run, as `eval.NAME`."""
        run = self._client.get_model_version(self.name, version).run_id
        self._client.log_batch(run, metrics=_entities(metrics, 0, "eval."))

    def promote(self, version: str, run: str) -> None:
        """Makes a version the champion.

        The intent is in the ledger before the alias moves, so a crash between the two is
        completed by the next look at the champion.

        Raises:
            DataRefused: no such version.
            Locked: another run is promoting.
        """
        to = self.resolve(version).version
        with stage_lock(self.lake, promotions.STAGE, run):
            before = self._find(CHAMPION)
            if before is not None and before.version == to:
                return
            self._intend(run, before, to, "")

    def rollback(self, run: str, to: str | None = None) -> tuple[str, str]:
        """Makes the previous champion, or an earlier one, the champion again.

        Args:
            to: a version that was champion before.

        Returns:
            The version that was the champion, and the one that is.

        Raises:
            DataRefused: there is no such champion.
            Locked: another run is promoting.
        """
        self.champion()
        with stage_lock(self.lake, promotions.STAGE, run):
            target = promotions.rollback_target(self.lake, to)
            before = self._find(CHAMPION)
            self._intend(run, before, self.resolve(target).version, promotions.ROLLBACK)
        return before.version if before else "", target

    # Promotions

    def _intend(self, run: str, before: ModelVersion | None, to: str, message: str) -> None:
        versions = {"from": before.version if before else "", "to": to}
        promotions.note(self.lake, run, "intended", versions, message)
        self._move(run, versions, message)

    def _finish(self, intended: dict[str, Any]) -> None:
        try:
            with stage_lock(self.lake, promotions.STAGE, intended["run"]):
                if promotions.unfinished(self.lake) == intended:
                    self._move(intended["run"], intended["versions"], intended["message"])
        except Locked:
            _LOG.info("run %s is promoting a model now", intended["run"])

    def _move(self, run: str, versions: dict[str, str], message: str) -> None:
        self._client.set_registered_model_alias(self.name, CHAMPION, versions["to"])
        promotions.note(self.lake, run, "done", versions, message)

    # MLflow

    @property
    def uri(self) -> str:
        """Of MLflow's tracking server or database."""
        return self._uri or f"sqlite:///{local_path(self.lake, 'mlflow.db')}"

    @cached_property
    def _client(self) -> MlflowClient:
        """A client whose database exists. Several processes that create it at once break it."""
        client_of = _quiet_client()
        with self._guard():
            client = client_of(tracking_uri=self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
        return client

    def _find(self, model: str) -> ModelVersion | None:
        from mlflow.exceptions import MlflowException

        try:
            if model == LATEST:
                found = self._newest()
            elif model.isdecimal():
                found = self._client.get_model_version(self.name, model)
            else:
                found = self._client.get_model_version_by_alias(self.name, model)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        return self._version(found) if found is not None else None

    def _newest(self) -> Any:
        found = self._client.search_model_versions(f"name='{self.name}'")
        return max(found, key=lambda version: int(version.version), default=None)

    def _version(self, found: Any) -> ModelVersion:
        tags = {name: lengthen(self.lake, text) for name, text in found.tags.items()}
        folder = model_folder(self.lake, tags["weights_digest"])
        return ModelVersion(str(found.version), folder, found.run_id, tags)

    def _ensure_model(self) -> None:
        if not self._client.search_registered_models(f"name='{self.name}'"):
            self._client.create_registered_model(self.name)

    def _log_run(
        self, run: str, metrics_by_epoch: Sequence[Mapping[str, float]], params: Mapping[str, Any]
    ) -> Any:
        from mlflow.entities import Param

        made = self._client.create_run(self._experiment_id(), run_name=run)
        texts = [Param(name, str(value)) for name, value in params.items()]
        # MLflow takes 100 parameters a request.
        for start in range(0, len(texts), 100):
            self._client.log_batch(made.info.run_id, params=texts[start : start + 100])
        for epoch, metrics in enumerate(metrics_by_epoch):
            self._client.log_batch(made.info.run_id, metrics=_entities(metrics, epoch))
        self._client.set_terminated(made.info.run_id, "FINISHED")
        return made.info

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        place = self.lake.folder("mlflow-artifacts")
        return str(self._client.create_experiment(self._experiment, artifact_location=place))

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """One process at a time creates the database or registers; a server does so itself."""
        if self._uri and "://" in self.lake.url:
            yield
            return
        with guarded(local_path(self.lake, "locks", "registry.guard")):
            yield


def _quiet_client() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    return MlflowClient


def _entities(metrics: Mapping[str, float], step: int, prefix: str = "") -> list[Any]:
    from mlflow.entities import Metric

    moment = time.time_ns() // 1_000_000
    return [Metric(prefix + name, float(value), moment, step) for name, value in metrics.items()]


def _same_but_run(some: Mapping[str, str], others: Mapping[str, str]) -> bool:
    return {**some, "run_id": ""} == {**others, "run_id": ""}


def as_tag(value: Any) -> str:
    """A tag's text of a JSON value; the same for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
