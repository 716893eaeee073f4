"""Sets a model, and the optimizers that train it, to what a warm start's source has.

Each rank reads what its own rows need: of whole tables all rows, of a piece those that its rows
copy. The source's files are mapped, so that any rank can read any row, whoever wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jobs.models.build import MODELS, Model, build_model, embedding_tables
from jobs.models.folder import read_card
from jobs.models.identity import refuse_changed_card
from jobs.models.mapped import WithoutValues
from jobs.models.spec import ModelSpec
from jobs.models.stored import Stored, read_moments, read_weights
from jobs.models.tables.pieces import ROWS
from jobs.models.ties import first_names, set_state, state_of
from jobs.train.step.moments import names_of
from jobs.train.step.step import Step
from jobs.train.tables.table import ShardedTable
from jobs.train.warm.origins import Origin, Origins
from jobs.train.warm.source import WarmStart

# Parameter's name -> name in the optimizer's state -> tensor.
_Moments = dict[str, dict[str, Tensor]]


def warm(
    model: Model, spec: ModelSpec, start: WarmStart, sharded: Sequence[ShardedTable] = ()
) -> dict[str, Origin]:
    """Sets the model's weights to the source's.

    Args:
        spec: what it was built from.
        sharded: this rank's pieces of its sharded tables.

    Returns:
        The origin of each embedding table's rows, by the name of its parameter.

    Raises:
        DataRefused: the source's files are missing or damaged.
        ConfigError: a table of a model of the user's own has grown, and its field is not clear.
    """
    card = read_card(start.folder)
    if start.identity is not None:
        refuse_changed_card(card, start.identity, start.folder)
    stored, before = read_weights(start.folder, card), ModelSpec.from_json(card["spec"])
    # Who shards its tables can be made without their values.
    with_tables = card["model"] not in MODELS and not sharded
    source = _like_source(card, before, stored, with_tables)
    sizes = _sizes(source, stored)
    weights = state_of(model)
    rows = {name: len(weights[name]) for name in _tables_of(model)}
    rows |= {table.name: table.buckets.rows for table in sharded}
    origins = Origins(start, spec, before, source, sizes).of(model, rows)
    read = partial(_rows_of, stored)
    with torch.no_grad():
        for name in _tables_of(model):
            origins[name].copy(torch.arange(rows[name]), weights[name], read)
        for table in sharded:
            origins[table.name].copy(table.ids, table.piece, read)
    others = {name: of for name, of in stored.tensors.items() if name not in sizes}
    set_state(model, {name: weights[name] for name in _tables_of(model)} | others)
    return origins


def _like_source(
    card: Mapping[str, Any], spec: ModelSpec, stored: Stored, with_tables: bool
) -> Model:
    """A model as the source's. The aim may be to go on with new code, so any will do."""
    shapes = {(of.buckets.rows, *of.table.shapes[ROWS][1]) for of in stored.tables.values()}
    # What it draws must not change the masks of dropout.
    with torch.random.fork_rng(devices=[]), WithoutValues(shapes):
        return build_model(card["model"], spec, card.get("base", "."), with_tables=with_tables)


def _tables_of(model: Model) -> set[str]:
    """The first names of the weights of its embedding tables."""
    firsts = first_names(model)
    return {firsts[name] for name, _ in embedding_tables(model)}


def _sizes(source: Model, stored: Stored) -> dict[str, int]:
    """The rows of the source's tables."""
    sizes = {name: len(stored.tensors[name]) for name in _tables_of(source) - stored.tables.keys()}
    return sizes | {name: files.buckets.rows for name, files in stored.tables.items()}


def _rows_of(stored: Stored, table: str, rows: Tensor) -> Tensor:
    if table in stored.tables:
        return stored.tables[table].rows(rows)
    return stored.tensors[table].index_select(0, rows)


def warm_moments(step: Step, start: WarmStart, origins: Mapping[str, Origin], kind: str) -> str:
    """Sets the optimizers' state to the source's, where it was saved by the same optimizer.

    Args:
        origins: what `warm` returned.
        kind: `train.optimizer`.

    Returns:
        A line for the log that says what was done.

    Raises:
        DataRefused: the source's files are missing or damaged.
    """
    moments = read_moments(start.folder)
    before = read_card(start.folder).get("optimizer")
    title = f"warm start from model version {start.version}"
    if moments is None:
        return f"{title}: it keeps no moments of its optimizer; they begin at zero"
    if before != kind:
        return f"{title}: its moments are of {before}; those of {kind} begin at zero"
    _set_moments(step, moments, origins)
    new = sum(origin.new for origin in origins.values())
    return f"{title}: weights and moments go on; {new:,} rows of embedding tables are new"


def _set_moments(step: Step, stored: Stored, origins: Mapping[str, Origin]) -> None:
    dense: _Moments = {}
    for path, value in stored.tensors.items():
        name, _, key = path.rpartition("/")
        dense.setdefault(name, {})[key] = value
    names, pieces = names_of(step), {id(table.piece): table for table in step.sharded.tables}
    for optimizer in step.optimizers:
        for parameter in (own for group in optimizer.param_groups for own in group["params"]):
            name, piece = names[parameter], pieces.get(id(parameter))
            if name in origins:
                rows = piece.ids if piece is not None else torch.arange(len(parameter))
                found = _of_table(dense, stored, origins[name], rows)
            else:
                found = dense.get(name, {})
            for key, value in found.items():
                # Scalars are counts of steps, which torch keeps on the CPU.
                place = parameter.device if value.dim() else value.device
                # A table's rows were copied already, and may be half of a rank's memory.
                is_own = name in origins and value.dim() > 0
                optimizer.state[parameter][key] = value.to(place, copy=not is_own)


def _of_table(dense: _Moments, stored: Stored, origin: Origin, rows: Tensor) -> dict[str, Tensor]:
    """The moments of some rows [k] of a new table, zero for new values; scalars as they are."""
    found: dict[str, Tensor] = {}
    for table in origin.tables:
        own = dense.get(table, {})
        found |= {key: value for key, value in own.items() if not value.dim()}
        none = torch.empty(0, dtype=torch.int64)
        for key in [*(k for k, value in own.items() if value.dim()), *_keys(stored, table)]:
            read = partial(_moments_of, dense, stored, key)
            like = read(table, none)
            found[key] = like.new_zeros(len(rows), *like.shape[1:])
            origin.copy(rows, found[key], read, with_new=False)
    return found


def _keys(stored: Stored, table: str) -> list[str]:
    return list(stored.tables[table].table.shapes) if table in stored.tables else []


def _moments_of(dense: _Moments, stored: Stored, key: str, table: str, rows: Tensor) -> Tensor:
    if table in stored.tables:
        return stored.tables[table].rows(rows, key)
    return dense[table][key].index_select(0, rows)
