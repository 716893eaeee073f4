"""The sharded tables of a model in a step: rows come from their owners, gradients go back.

Each rank tells the owners of rows which ones its batches look up, each once; the owners send them;
the forward and the backward pass run on them as on a small table; the gradients go to the owners,
which add them up and update their pieces. All tables share these exchanges, and every rank takes
part in each, with empty pieces where it has only padding or touches no row of a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jobs.batch.batch import Batch
from jobs.train.exchange.exchange import Exchange
from jobs.train.exchange.pending import Pending
from jobs.train.exchange.rows import Groups, TableRows, grouped
from jobs.train.tables.distinct import Distinct, distinct_rows
from jobs.train.tables.ordered import lookup_gradients, lookup_keys
from jobs.train.tables.table import Lookup, ShardedTable
from jobs.train.tables.wire import SentRows, start_rows, told_places


@dataclass(frozen=True)
class _Step:
    """What the ranks look up in a table in one step.

    Attributes:
        distinct: rows that this rank looks up.
        asked: int64 [k], places in this rank's piece that the ranks look up.
        lookups: of this rank.
        keys: of its lookups, the places of the ids in the global batch's order, if that counts.
    """

    distinct: Distinct
    asked: SentRows
    lookups: list[Lookup]
    keys: list[Tensor]


class Tables:
    """The sharded tables of a model, on one rank.

    Args:
        model: in which their layers are.
        tables: this rank's pieces, in the same order on all ranks.
        exchange: between the ranks, which must all make the same calls.
        sent_dtype: in which gradients are sent; their own when None.
        by_batch: whether the gradients of a row are added up in the order of the global batch, and
            not the sums of the ranks in order of the ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        tables: Sequence[ShardedTable],
        exchange: Exchange,
        sent_dtype: torch.dtype | None,
        by_batch: bool,
    ) -> None:
        self.tables = list(tables)
        self._model, self._exchange, self._sent_dtype = model, exchange, sent_dtype
        self._by_batch = by_batch
        self._step: list[_Step] = []
        self._order: Pending[list[SentRows]] | None = None
        self._gradients: Pending[list[SentRows]] | None = None

    # Not what a validation's inference mode makes: Horovod cannot send that.
    @torch.inference_mode(False)
    @torch.no_grad()
    def fetch(self, batches: Sequence[Batch]) -> None:
        """Fetches the rows that forward passes over the batches look up; all ranks call this.

        Args:
            batches: on the CPU; those with only padding look up nothing.
        """
        if not self.tables:
            return
        ids, keys = self._found(batches)
        size = self._exchange.size
        distinct = [
            distinct_rows(table.buckets, size, own)
            for table, own in zip(self.tables, ids, strict=True)
        ]
        asked = told_places(
            self._exchange, [SentRows(own.places, own.of_owner) for own in distinct]
        )
        answers = [
            SentRows(table.piece.index_select(0, own.values), own.of_rank)
            for table, own in zip(self.tables, asked, strict=True)
        ]
        counts = [own.of_owner for own in distinct]
        fetched = start_rows(self._exchange, "rows of tables", answers, counts).result()
        self._step = [
            _Step(own, of, _lookups(table, rows.values, looked_up, own), of_keys)
            for own, of, table, rows, looked_up, of_keys in zip(
                distinct, asked, self.tables, fetched, ids, keys, strict=True
            )
        ]
        for table, known in zip(self.tables, self._step, strict=True):
            table.layer.lookups = list(known.lookups)

    def _found(self, batches: Sequence[Batch]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """For each table the ids of each lookup, and their places in the global batch's order."""
        numbers = {id(table.layer): number for number, table in enumerate(self.tables)}
        ids: list[list[Tensor]] = [[] for _ in self.tables]
        keys: list[list[Tensor]] = [[] for _ in self.tables]
        for batch in batches:
            if not batch.rows:
                continue
            batch = batch.to(self.tables[0].piece.device)
            of_batch: list[list[Tensor]] = [[] for _ in self.tables]
            for layer, looked_up in self._named(batch):
                if id(layer) in numbers:
                    of_batch[numbers[id(layer)]].append(looked_up)
            for number, own in enumerate(of_batch):
                ids[number] += own
                keys[number] += lookup_keys(batch.position, own) if self._by_batch else []
        nothing = torch.empty(0, dtype=torch.int64, device=self.tables[0].piece.device)
        return [own or [nothing] for own in ids], [own or [nothing] for own in keys]

    def _named(self, batch: Batch) -> Iterator[tuple[nn.Module, Tensor]]:
        for module in self._model.modules():
            if hasattr(module, "lookups") and callable(module.lookups):
                yield from module.lookups(batch)

    @torch.no_grad()
    def start_gradients(self) -> Tensor:
        """Starts to send the gradients of the fetched rows to their owners.

        Returns:
            [tables]: the sum of the absolute values of each table's. Where its sum over all ranks
            is finite, so are the sums that the owners make.
        """
        if not self.tables:
            return torch.zeros(0)
        if self._by_batch:
            rows = self._of_lookups()
        else:
            rows = [SentRows(_sums(known.lookups), known.distinct.of_owner) for known in self._step]
        counts = [known.asked.of_rank for known in self._step]
        self._gradients = start_rows(
            self._exchange, "gradients of tables", rows, counts, self._sent_dtype
        )
        return torch.stack([own.values.abs().sum() for own in rows])

    def _of_lookups(self) -> list[SentRows]:
        """The gradient of each id that was looked up; their owners are told places and order."""
        found = [
            lookup_gradients(known.lookups, known.keys, known.distinct) for known in self._step
        ]
        asked = told_places(self._exchange, [own.places for own in found])
        counts = [own.of_rank for own in asked]
        keys = [own.keys for own in found]
        self._order = start_rows(self._exchange, "order of gradients", keys, counts)
        self._step = [
            _Step(known.distinct, own, known.lookups, known.keys)
            for known, own in zip(self._step, asked, strict=True)
        ]
        return [own.values for own in found]

    @torch.no_grad()
    def merged(self) -> list[TableRows]:
        """Waits for the gradients of this rank's rows, added up.

        Returns:
            For each table the sums, by index in the piece: each once, ascending.
        """
        if self._gradients is None:
            return []
        # Found while the values are on their way.
        groups = self._groups()
        received = self._gradients.result()
        self._gradients = None
        merged = []
        for table, own, rows in zip(self.tables, groups, received, strict=True):
            sums, places = own.sums(rows.values).to(table.computed), own.ids.long()
            table.touched[places] = True
            merged.append(TableRows(places, sums))
        return merged

    def squares(self, merged: Sequence[TableRows]) -> Tensor | None:
        """The sum over all ranks of the squares of what `merged` returned; None without tables."""
        if not merged:
            return None
        own = torch.stack([rows.values.double().square().sum() for rows in merged]).sum()
        (total,) = self._exchange.start_sums([own]).result()
        return total

    def _groups(self) -> list[Groups]:
        if self._order is None:
            return [grouped(known.asked.values) for known in self._step]
        keys = [own.values.squeeze(1) for own in self._order.result()]
        self._order = None
        orders = [torch.argsort(own, stable=True) for own in keys]
        return [
            grouped(known.asked.values[order], order)
            for known, order in zip(self._step, orders, strict=True)
        ]


def _lookups(
    table: ShardedTable, rows: Tensor, ids: Sequence[Tensor], distinct: Distinct
) -> list[Lookup]:
    """The lookups that a table's layer is going to make in its rows [d, E]."""
    rows = rows.view(-1, table.dim).to(table.computed)
    padded = torch.cat([rows.new_zeros(1, table.dim), rows])
    return [
        Lookup(own, indices, padded.detach().requires_grad_())
        for own, indices in zip(ids, distinct.indices, strict=True)
    ]


def _sums(lookups: Sequence[Lookup]) -> Tensor:
    """This rank's gradient of the fetched rows, [d, E]."""
    return torch.stack([lookup.gradient for lookup in lookups]).sum(0)[1:]
