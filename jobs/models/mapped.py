"""Models whose embedding tables are in mapped files: a lookup reads its rows, and no others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from jobs.models.build import embedding_tables
from jobs.models.tables.pieces import ROWS, TableFiles
from jobs.models.ties import first_names

M = TypeVar("M", bound=nn.Module)


class MappedTable(nn.Module):
    """An embedding table in files: a lookup reads its rows, and nothing else is in memory."""

    def __init__(self, files: TableFiles) -> None:
        super().__init__()
        self.files = files

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [...] -> rows [..., E], float32 where the files have them shorter."""
        limit = self.files.buckets.rows
        if len(flat := ids.reshape(-1)) and not 0 <= int(flat.min()) <= int(flat.max()) < limit:
            raise IndexError(f"an id is outside table {self.files.table.name} of {limit} rows")
        rows = self.files.rows(flat)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return rows.view(*ids.shape, *rows.shape[1:])


def mappable_tables(model: nn.Module) -> dict[str, list[str]]:
    """Tables whose rows may be looked up elsewhere: parameter's first name -> their places.

    Others have a forward pass of their own, which needs the whole table.
    """
    firsts, found = first_names(model), dict[str, list[str]]()
    whole = set()
    for name, table in embedding_tables(model):
        first = firsts[name]
        found.setdefault(first, []).append(name.removesuffix(".weight"))
        if type(table).forward is not nn.Embedding.forward:
            whole.add(first)
    return {first: places for first, places in found.items() if first not in whole}


def with_mapped(build: Callable[[], M], tables: Mapping[str, TableFiles]) -> M:
    """Builds a model with mapped tables in the places of its own, which take no memory."""
    shapes = {(files.buckets.rows, *files.table.shapes[ROWS][1]) for files in tables.values()}
    with WithoutValues(shapes):
        model = build()
    _replace(model, tables)
    if any(parameter.is_meta for parameter in model.parameters()):
        # A layer has the shape of a table.
        model = build()
        _replace(model, tables)
    return model


def _replace(model: nn.Module, tables: Mapping[str, TableFiles]) -> None:
    places = mappable_tables(model)
    for name, files in tables.items():
        mapped_table = MappedTable(files)
        for place in places[name]:
            parent, _, child = place.rpartition(".")
            setattr(model.get_submodule(parent), child, mapped_table)


class WithoutValues(TorchFunctionMode):
    """Tensors of some shapes are made without values, on the device meta."""

    def __init__(self, shapes: Collection[tuple[int, ...]]) -> None:
        super().__init__()
        self._shapes = shapes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        size = args[0] if args and not isinstance(args[0], int) else args
        if func is torch.empty and tuple(size) in self._shapes:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
