"""A study's page: one HTML file that needs no network. Pictures before numbers."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from jobs.base import pages
from jobs.lake.lake import Lake
from jobs.lake.ledger import read_ledger
from jobs.registry.registry import Registry
from jobs.registry.version import ModelVersion
from jobs.settings.settings import Settings
from jobs.settings.tune import TuneSettings
from jobs.stores.files import write_whole
from jobs.tune.pictures import history_picture, parallel_picture, rungs_picture
from jobs.tune.progress import duration
from jobs.tune.samplers.space import Entries
from jobs.tune.study import facts_of, metric_of, stored_study
from jobs.tune.told import Told, best_of, told_of

_FEWEST_FOR_IMPORTANCES = 8
_VALIDATION, _TEST = ("val_auc", "val_loss"), ("auc", "log_loss", "rmse", "accuracy")


@dataclass(frozen=True)
class Beside:
    """One of the settings that are shown side by side.

    Attributes:
        values: by entry of the space; an entry that does not matter is left out.
        measured: metric -> value, of validation and test rows.
    """

    name: str
    values: Mapping[str, Any]
    measured: Mapping[str, float]


def write_report(settings: Settings, name: str) -> str:
    """Writes a study's page beside its journal; returns its URL.

    Raises:
        DataRefused: there is no such study.
    """
    lake = Lake(settings.lake_url, settings.dataset().name)
    folder = lake.folder("studies", name)
    study = stored_study(folder)
    versions, ledger = Registry(settings, lake), read_ledger(lake)
    url = f"{folder}/report.html"
    write_whole(url, render(study, columns_of(settings, study, versions, ledger)).encode())
    return url


def render(study: optuna.Study, columns: Sequence[Beside]) -> str:
    """The page of a study, as HTML."""
    told = [told_of(one) for one in study.get_trials(deepcopy=False) if one.state.is_finished()]
    facts, more = facts_of(study), study.direction.name == "MAXIMIZE"
    metric, entries, best = metric_of(study), _entries(facts), best_of(told, more)
    narrow = [history_picture(told, metric, more), rungs_picture(told, metric)]
    return pages.render(
        "study.html",
        title=f"study {study.study_name}",
        subtitle=f"{facts['sampler']}, seed {facts['seed']}, by {metric} of the validation rows",
        tiles=_tiles(told, best, metric, running=len(study.trials) - len(told)),
        pictures=[pages.Markup(picture) for picture in narrow if picture],
        parallel=pages.Markup(parallel_picture(told, entries, metric, more)),
        importances=_importances(study),
        columns=columns,
        entries=list(entries),
        measured=list(dict.fromkeys(name for one in columns for name in one.measured)),
        failures=_failures(told),
        trials=[_row(one) for one in told],
        metric=metric,
    )


def columns_of(
    settings: Settings,
    study: optuna.Study,
    registry: Registry,
    ledger: Sequence[Mapping[str, Any]],
) -> list[Beside]:
    """The champion, the settings as they are, and the winner where there are such."""
    told = [told_of(one) for one in study.get_trials(deepcopy=False) if one.state.is_finished()]
    entries, metric = _entries(facts_of(study)), metric_of(study)
    best = best_of(told, study.direction.name == "MAXIMIZE")
    found = []
    if champion := registry.alias_target():
        train = json.loads(champion.tags["settings"])["train"]
        name = f"champion, version {champion.version}"
        found.append(Beside(name, _chosen(entries, train), _measured(champion, ledger)))
    present = _chosen(entries, settings.train.model_dump(mode="json"))
    same = [one.value for one in told if one.params == present and one.value is not None]
    found.append(Beside("settings of train", present, {metric: same[0]} if same else {}))
    if best is not None:
        versions = [one for one in registry.versions() if _is_winner(one, study.study_name, best)]
        name = f"trial {best.number}" + (f", version {versions[0].version}" if versions else "")
        measured = _measured(versions[0], ledger) if versions else {}
        found.append(Beside(name, best.params, {metric: float(best.value or 0), **measured}))
    return found


def _entries(facts: Mapping[str, Any]) -> Entries:
    return TuneSettings.model_validate({"space": dict(facts["space"])}).space


def _chosen(entries: Entries, train: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a training's settings, of the entries whose conditions hold."""
    found: dict[str, Any] = {}
    for name, entry in entries.items():
        if all(found.get(other) in values for other, values in entry.when.items()):
            found[name] = train.get(name.removeprefix("train."))
    return found


def _is_winner(version: ModelVersion, study: str, best: Told) -> bool:
    return (version.tags.get("study"), version.tags.get("trial")) == (study, str(best.number))


def _measured(version: ModelVersion, ledger: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the ledger has of a version: of validation rows when trained, and of test rows."""
    found: dict[str, float] = {}
    for row in ledger:
        metrics, weights = row["metrics"], row["digests"].get("weights")
        if row["stage"] in ("train", "tune") and weights == version.tags.get("weights_digest"):
            found |= {name: metrics[name] for name in _VALIDATION if name in metrics}
        if row["stage"] == "evaluate" and row["versions"].get("model") == version.version:
            found |= {f"test {name}": metrics[name] for name in _TEST if name in metrics}
    return found


def _tiles(
    told: Sequence[Told], best: Told | None, metric: str, running: int
) -> list[tuple[str, str]]:
    seconds = sum(float(one.facts.get("seconds", 0.0)) for one in told)
    counts = {
        "trials ended": len(told),
        "under way": running,
        "stopped early": sum(one.stopped is not None for one in told),
        "failed": sum(bool(one.failed) for one in told),
        "rows trained": sum(one.rows for one in told),
    }
    tiles = [(name, f"{count:,}") for name, count in counts.items()]
    tiles.append(("of all trials together", duration(seconds)))
    if best is not None:
        tiles.insert(0, (f"{metric}, trial {best.number}", f"{best.value:.4f}"))
    return tiles


def _importances(study: optuna.Study) -> list[tuple[str, str, str]]:
    """Entries, their share of what made trials good, and a bar's width; none of too few trials.

    PED-ANOVA: Watanabe, Bansal, Hutter 2023.
    """
    ended = [one for one in study.get_trials(deepcopy=False) if one.value is not None]
    if len(ended) < _FEWEST_FOR_IMPORTANCES:
        return []
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return [(name, f"{share:.0%}", f"{share * 85:.1f}") for name, share in found.items()]


def _failures(told: Sequence[Told]) -> list[tuple[str, str]]:
    """Why trials failed, with the trials' numbers."""
    reasons: dict[str, list[int]] = defaultdict(list)
    for one in told:
        if one.failed:
            reasons[one.failed].append(one.number)
    return [(reason, ", ".join(map(str, numbers))) for reason, numbers in reasons.items()]


def _row(one: Told) -> dict[str, str]:
    if one.failed:
        value = "failed"
    elif one.stopped is not None:
        value = f"stopped at {one.stopped:,}: {one.rungs[one.stopped]:.4f}"
    else:
        value = f"{one.value:.6f}"
    return {
        "number": str(one.number),
        "value": value,
        "rows": f"{one.rows:,}",
        "seconds": f"{one.facts.get('seconds', 0.0):.0f}",
        "values": ", ".join(
            f"{name.removeprefix('train.')}={value}" for name, value in one.params.items()
        ),
    }
