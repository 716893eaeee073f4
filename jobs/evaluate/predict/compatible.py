"""Whether a model can read examples, and how their ids become its own."""

from __future__ import annotations

from jobs.base.errors import DataRefused
from jobs.etl.encode.encoder import id_map
from jobs.evaluate.predict.ids import IdMaps
from jobs.lake.declaration import refuse_changed_declaration
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.lake.state import load_state
from jobs.registry.version import ModelVersion
from schemas.dataset import Dataset


def refuse_other_declaration(model: ModelVersion, dataset: Dataset, lake: Lake) -> None:
    """Refuses a model of another declaration than the settings', naming the fields that differ."""
    version = int(model.tags["examples_version"])
    made = {"declaration": model.tags["declaration"]}
    if made["declaration"] != dataset.digest:
        made |= Examples.open(lake.table("examples").url, version).info
    refuse_changed_declaration(
        made,
        dataset,
        f"model version {model.version} was",
        "take the change of the declaration back, or train a model with it",
    )


def id_maps_of(lake: Lake, dataset: Dataset, model: ModelVersion, examples: Examples) -> IdMaps:
    """Field -> the model's id by that of the examples, for fields with ids that the model lacks.

    Raises:
        DataRefused: the model has another declaration, or ids of another generation.
    """
    refuse_other_declaration(model, dataset, lake)
    info = examples.info
    state = load_state(lake, model.tags["state_digest"])
    if info["generation"] != state.generation:
        raise DataRefused(
            f"model version {model.version} knows the ids of generation {state.generation}; "
            f"the examples have those of generation {info['generation']}",
            remedy="train a model on the rebuilt examples",
        )
    return id_map(lake, dataset, state, info["versions"]["id_log"])
