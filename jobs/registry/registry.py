"""The model registry: versions of a data set's models, and which one is the champion.

MLflow keeps what a model is (tags), how it was made (parameters, curves) and the alias of the
champion (`client.py`). The files lie in the lake, named by the digest of the model's identity.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.base.errors import DataRefused, GateRefused, Locked
from jobs.lake.lake import Lake
from jobs.lake.lock import stage_lock
from jobs.registry import promotions
from jobs.registry.client import RegistryClient
from jobs.registry.files import (
    identity_of,
    keep_model,
    lengthen,
    model_folder,
    refuse_changed_model,
    shorten,
)
from jobs.registry.version import CHAMPION, LATEST, REQUIRED_TAGS, ModelVersion, digest_of_model
from jobs.settings.redact import without_users
from jobs.settings.settings import Settings

# Before the names of metrics that were measured later, beside those of training.
_MEASURED = "eval."
_LOG = logging.getLogger("millstream.registry")


class Registry:
    """The registered models of one data set."""

    def __init__(self, settings: Settings, lake: Lake) -> None:
        self.lake = lake
        self.name = lake.url.rstrip("/").rsplit("/", 1)[-1]
        self._client = RegistryClient(settings.mlflow, lake, self.name)

    @property
    def shown_uri(self) -> str:
        """Of MLflow's tracking server or database, without its user."""
        return without_users(self._client.uri)

    # Reading

    def resolve(self, model: str) -> ModelVersion:
        """The version that a number, an alias or "latest" stands for now.

        Raises:
            DataRefused: there is none.
        """
        found = self.champion() if model == CHAMPION else self._find(model)
        if found is None:
            raise DataRefused(
                f"no model {model!r} of {self.name} in the registry {self.shown_uri}",
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

    def alias_target(self) -> ModelVersion | None:
        """The version that the champion's alias is at. Unlike `champion`, it only reads."""
        return self._find(CHAMPION)

    def versions(self) -> list[ModelVersion]:
        """All versions, oldest first."""
        if self._client.is_empty:
            return []
        found = self._client.versions()
        return [self._version(one) for one in sorted(found, key=lambda one: int(one.version))]

    def metrics_by_epoch(self, version: ModelVersion) -> dict[str, list[float]]:
        """The training curves: for each metric, its value by epoch."""
        values = self._client.metrics_by_step(version.mlflow_run)
        return {
            name: by_epoch for name, by_epoch in values.items() if not name.startswith(_MEASURED)
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

        The same model with the same tags (but for `run_id`) are registered once: a replay gets
        the version that stands.

        Args:
            folder: where `jobs.models.artifact.save_model` wrote.
            metrics_by_epoch: one mapping an epoch.
            tags: at least REQUIRED_TAGS; fingerprint and settings as JSON, dates as A..B.
            params: for reading in MLflow.

        Returns:
            The version.
        """
        if missing := [name for name in REQUIRED_TAGS if not tags.get(name)]:
            raise ValueError(f"register: tags are missing: {', '.join(missing)}")
        identity = identity_of(folder)
        tags = {**tags, "identity": identity.as_text(), "weights_digest": identity.weights}
        stored = {name: shorten(self.lake, text) for name, text in tags.items()}
        with self._client.registering():
            keep_model(self.lake, folder, identity.digest)
            for found in self._client.versions():
                if _same_but_run(found.tags, stored):
                    return str(found.version)
            return self._client.create_version(tags["run_id"], metrics_by_epoch, params, stored)

    def log_metrics(self, version: str, metrics: Mapping[str, float]) -> None:
        """Adds measured values to the version's MLflow run, as `eval.NAME`."""
        self._client.log_metrics(version, {_MEASURED + n: value for n, value in metrics.items()})

    def promote(self, version: str, run: str, instead_of: str | None = None) -> None:
        """Makes a version the champion.

        The intent is in the ledger before the alias moves, so a crash between the two is
        completed by the next look at the champion.

        Args:
            instead_of: the version that must be the champion until then, empty where there must
                be none; any one when None.

        Raises:
            DataRefused: no such version, or it was changed since it was registered.
            GateRefused: another version is the champion than `instead_of`.
            Locked: another run is promoting.
        """
        found = self.resolve(version)
        refuse_changed_model(found)
        to = found.version
        with stage_lock(self.lake, promotions.STAGE, run):
            before = self._find(CHAMPION)
            if before is not None and before.version == to:
                return
            if instead_of is not None:
                _refuse_other_champion(to, instead_of, before.version if before else "")
            self._intend(run, before, to, "")

    def rollback(self, run: str, to: str | None = None) -> tuple[str, str]:
        """Makes the previous champion, or an earlier one, the champion again.

        Args:
            to: a version that was champion before.

        Returns:
            The version that was the champion, and the one that is.

        Raises:
            DataRefused: there is no such champion, or it was changed since it was registered.
            Locked: another run is promoting.
        """
        self.champion()
        with stage_lock(self.lake, promotions.STAGE, run):
            target = promotions.rollback_target(self.lake, to)
            refuse_changed_model(self.resolve(target))
            before = self._find(CHAMPION)
            self._intend(run, before, target, promotions.ROLLBACK)
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
        self._client.set_alias(CHAMPION, versions["to"])
        promotions.note(self.lake, run, "done", versions, message)

    # Versions

    def _find(self, model: str) -> ModelVersion | None:
        found = self._client.find(model)
        return self._version(found) if found is not None else None

    def _version(self, found: Any) -> ModelVersion:
        tags = {name: lengthen(self.lake, text) for name, text in found.tags.items()}
        folder = model_folder(self.lake, digest_of_model(tags))
        return ModelVersion(str(found.version), folder, found.run_id, tags)


def _refuse_other_champion(version: str, wanted: str, found: str) -> None:
    if found != wanted:
        known, is_now = (f"version {one}" if one else "none" for one in (wanted, found))
        raise GateRefused(
            f"model version {version} was judged when the champion was {known}; it is {is_now} now",
            "the champion that the verdict knew",
            "judge it beside that one: run the night again with --from evaluate",
        )


def _same_but_run(some: Mapping[str, str], others: Mapping[str, str]) -> bool:
    return {**some, "run_id": ""} == {**others, "run_id": ""}
