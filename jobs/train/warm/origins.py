"""Which rows of the source the rows of a new model's embedding tables copy.

A row copies the one that the source uses for the same value: the value's own, or that of its OOV
bucket where the source does not know the value. So, before its first step, the new model scores as
its source does. Moments of the optimizer are those of the row, too, but zero for a new value: it
has had no gradient yet, and the bucket's sum of squares comes from all unseen values, so that
Adagrad would hardly move the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from jobs.base.errors import ConfigError
from jobs.models.layers import Embeddings
from jobs.models.lists import PooledEmbeddings
from jobs.models.spec import ModelSpec
from jobs.train.warm.source import WarmStart

# Gives the rows [k] of one of the source's tables, [k, ...].
Read = Callable[[str, Tensor], Tensor]
# Rows that are copied at once.
_PART = 65_536


@dataclass(frozen=True)
class Segment:
    """Rows of a table that follow each other: the ids of one field, from `first_id` on.

    Attributes:
        rows: how many.
        first_id: of the first row.
        table: the source's, by the name of its parameter.
        offset: what makes an id of the source's its row there.
        known: int32 [ids], the source's id for each; None where the source has them all.
    """

    rows: int
    first_id: int
    table: str
    offset: int = 0
    known: npt.NDArray[np.int32] | None = None

    def ids(self, places: Tensor) -> Tensor:
        """The source's ids for places [k] in the segment."""
        own = places + self.first_id
        return own if self.known is None else torch.from_numpy(self.known)[own].long()

    @property
    def new(self) -> int:
        """Rows of values that the source does not know."""
        if self.known is None:
            return 0
        own = np.arange(self.first_id, self.first_id + self.rows, dtype=np.int32)
        return int(np.count_nonzero(self.known[self.first_id :][: self.rows] != own))


@dataclass(frozen=True)
class Origin:
    """Where the rows of a new model's embedding table come from.

    Attributes:
        segments: of the table, one after the other.
    """

    segments: Sequence[Segment]

    @property
    def rows(self) -> int:
        return sum(segment.rows for segment in self.segments)

    @property
    def new(self) -> int:
        """Rows of values that the source does not know."""
        return sum(segment.new for segment in self.segments)

    @property
    def tables(self) -> list[str]:
        """The source's tables that it copies from."""
        return list(dict.fromkeys(segment.table for segment in self.segments))

    def copy(self, rows: Tensor, target: Tensor, read: Read, with_new: bool = True) -> None:
        """Sets [k, ...] to what the source has for rows [k] of the new table.

        Args:
            rows: int64.
            target: the values are converted to its dtype, and brought to its device.
            with_new: whether rows of values that the source does not know are set, too.
        """
        ends = torch.tensor(list(accumulate(segment.rows for segment in self.segments)))
        for begin in range(0, len(rows), _PART):
            some = rows[begin : begin + _PART]
            numbers = torch.searchsorted(ends, some, right=True)
            for number in np.unique(numbers.numpy()).tolist():
                segment = self.segments[number]
                here = (numbers == number).nonzero().squeeze(1)
                places = some[here] - (int(ends[number]) - segment.rows)
                ids = segment.ids(places)
                if not with_new:
                    old = ids == places + segment.first_id
                    here, ids = here[old], ids[old]
                target[begin + here] = read(segment.table, ids + segment.offset).to(target)


@dataclass(frozen=True)
class Origins:
    """Finds the origins of the tables of a model.

    Attributes:
        start: the source.
        spec, before: what the model, and the source's, are built from.
        source: a model as the source's, whose tables need have no values.
        sizes: of the source's tables, their rows.
    """

    start: WarmStart
    spec: ModelSpec
    before: ModelSpec
    source: nn.Module
    sizes: Mapping[str, int]

    def of(self, model: nn.Module, tables: Mapping[str, int]) -> dict[str, Origin]:
        """The origin of each table of the model, by its parameter's name.

        Args:
            tables: parameter's name -> rows.

        Raises:
            ConfigError: a table of a model of the user's own has grown, and its field is not clear.
        """
        found = dict(self._of_layers(model))
        return {n: found.get(n) or self._of_other(n, rows) for n, rows in tables.items()}

    def _of_layers(self, model: nn.Module) -> Iterator[tuple[str, Origin]]:
        for name, module in model.named_modules():
            if isinstance(module, PooledEmbeddings):
                for number, field in enumerate(module.names):
                    table = f"{name}.tables.{number}.weight"
                    rows = self.spec.id_lists[field][0]
                    yield table, Origin([Segment(rows, 0, table, 0, self._known(field))])
            elif isinstance(module, Embeddings):
                before = self.source.get_submodule(name)
                assert isinstance(before, Embeddings)
                for number, columns in enumerate(module.columns):
                    segments = list(self._of_shared(name, columns, before))
                    yield f"{name}.tables.{number}.weight", Origin(segments)

    def _known(self, field: str) -> npt.NDArray[np.int32] | None:
        return self.start.id_maps.get(field)

    def _of_shared(
        self, layer: str, columns: Sequence[int], before: Embeddings
    ) -> Iterator[Segment]:
        """Row 0 of a table is shared by its fields; then come the other ids of each in turn."""
        for number, c in enumerate(columns):
            place, first = before.place(c)
            table = f"{layer}.tables.{place}.weight"
            if not number:
                yield Segment(1, 0, table)
            known = self._known(self.start.columns[c])
            yield Segment(self.spec.table_rows[c] - 1, 1, table, first - 1, known)

    def _of_other(self, name: str, rows: int) -> Origin:
        sizes = self.sizes[name], rows
        known = None if sizes[0] == rows else self._known(self._field_of(name, sizes))
        return Origin([Segment(rows, 0, name, 0, known)])

    def _field_of(self, name: str, sizes: tuple[int, int]) -> str:
        """The field of a table of a user's own model, told by its number of rows in both models.

        Raises:
            ConfigError: no field, or more than one, has as many ids.
        """
        grown = list(zip(self.before.table_rows, self.spec.table_rows, strict=True))
        if grown.count(sizes) != 1:
            raise ConfigError(
                f"train.warm_start: table {name!r} went from {sizes[0]:,} to {sizes[1]:,} rows",
                "a table for one field, as many rows as the field has ids",
                "use jobs.models.layers.Embeddings, or leave train.warm_start empty",
            )
        return self.start.columns[grown.index(sizes)]
