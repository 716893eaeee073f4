"""What the registry asks of MLflow. The only module that imports it, and late: its import costs
seconds.

By default MLflow's database is SQLite inside the lake: its file store tears when an alias moves
under a reader.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jobs.lake.lake import Lake
from jobs.registry.files import local_path
from jobs.registry.version import LATEST
from jobs.settings.services import MlflowSettings
from jobs.stores.host import guarded

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Databases hold a version as an integer of 32 bits.
_LAST_VERSION = 2**31 - 1


class RegistryClient:
    """MLflow's registered model of one data set, its versions and their runs.

    Args:
        settings: which server, and which experiment.
        name: of the model.
    """

    def __init__(self, settings: MlflowSettings, lake: Lake, name: str) -> None:
        self._lake, self._name = lake, name
        self._experiment = settings.experiment or name
        self._uri = settings.tracking_uri

    @property
    def uri(self) -> str:
        """Of MLflow's tracking server or database."""
        return self._uri or f"sqlite:///{local_path(self._lake, 'mlflow.db')}"

    @property
    def is_empty(self) -> bool:
        """Whether there is no database yet, so that nothing need be asked."""
        return not self._uri and not local_path(self._lake, "mlflow.db").exists()

    @cached_property
    def mlflow(self) -> MlflowClient:
        """A client whose database exists. Several processes that create it at once break it."""
        client_of = _quiet_client()
        with self._guard():
            client: MlflowClient = client_of(tracking_uri=self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
        return client

    def find(self, model: str) -> Any:
        """MLflow's version of a number, an alias or LATEST; None where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            if model == LATEST:
                return max(self.versions(), key=lambda one: int(one.version), default=None)
            if model.isascii() and model.isdecimal():
                if int(model) > _LAST_VERSION:
                    return None
                return self.mlflow.get_model_version(self._name, model)
            return self.mlflow.get_model_version_by_alias(self._name, model)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None

    def versions(self) -> list[Any]:
        """MLflow's versions, in any order."""
        return list(self.mlflow.search_model_versions(f"name='{self._name}'"))

    def set_alias(self, alias: str, version: str) -> None:
        self.mlflow.set_registered_model_alias(self._name, alias, version)

    def create_version(
        self,
        run: str,
        metrics_by_epoch: Sequence[Mapping[str, float]],
        params: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> str:
        """Logs a run and registers a version of it.

        Args:
            run: its name.
            metrics_by_epoch: one mapping an epoch.
            params: of the run.
            tags: of the version.

        Returns:
            The version.
        """
        info = self._log_run(run, metrics_by_epoch, params)
        if not self.mlflow.search_registered_models(f"name='{self._name}'"):
            self.mlflow.create_registered_model(self._name)
        # A tracking server takes no source outside the run's own folder, so the model's place
        # follows from its digest, and a lake may be moved with its models.
        made = self.mlflow.create_model_version(
            self._name, info.artifact_uri, info.run_id, tags=dict(tags), await_creation_for=0
        )
        return str(made.version)

    def _log_run(
        self, run: str, metrics_by_epoch: Sequence[Mapping[str, float]], params: Mapping[str, Any]
    ) -> Any:
        from mlflow.entities import Param

        made = self.mlflow.create_run(self._experiment_id(), run_name=run)
        texts = [Param(name, str(value)) for name, value in params.items()]
        # MLflow takes 100 parameters a request.
        for start in range(0, len(texts), 100):
            self.mlflow.log_batch(made.info.run_id, params=texts[start : start + 100])
        for epoch, metrics in enumerate(metrics_by_epoch):
            self.mlflow.log_batch(made.info.run_id, metrics=_entities(metrics, epoch))
        self.mlflow.set_terminated(made.info.run_id, "FINISHED")
        return made.info

    def _experiment_id(self) -> str:
        found = self.mlflow.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        place = self._lake.folder("mlflow-artifacts")
        return str(self.mlflow.create_experiment(self._experiment, artifact_location=place))

    def log_metrics(self, version: str, metrics: Mapping[str, float]) -> None:
        """Adds measured values to the run of a version."""
        run = self.mlflow.get_model_version(self._name, version).run_id
        self.mlflow.log_batch(run, metrics=_entities(metrics, 0))

    def metrics_by_step(self, run: str) -> dict[str, list[float]]:
        """A run's metrics, each with its values by step."""
        names = self.mlflow.get_run(run).data.metrics
        history = {name: self.mlflow.get_metric_history(run, name) for name in names}
        return {
            name: [point.value for point in sorted(points, key=lambda point: int(point.step))]
            for name, points in sorted(history.items())
        }

    @contextmanager
    def registering(self) -> Iterator[None]:
        """One process at a time registers."""
        # It makes the database, under the same guard, which cannot be taken twice.
        _ = self.mlflow
        with self._guard():
            yield

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """One process at a time creates the database or registers; a server does so itself."""
        if self._uri and "://" in self._lake.url:
            yield
            return
        with guarded(local_path(self._lake, "locks", "registry.guard")):
            yield


def _quiet_client() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    return MlflowClient


def _entities(metrics: Mapping[str, float], step: int) -> list[Any]:
    from mlflow.entities import Metric

    moment = time.time_ns() // 1_000_000
    return [Metric(name, float(value), moment, step) for name, value in metrics.items()]
