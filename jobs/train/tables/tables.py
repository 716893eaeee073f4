"""The sharded tables of a model in a step: rows come from their owners, gradients go back.

Each rank tells the owners of rows which ones its batches look up, each once; the owners send them;
the forward and the backward pass run on them as on a small table; the gradients go to the owners,
which add them up and update their pieces. All tables share these exchanges, and every rank takes
part in each, with empty pieces where it has only padding or touches no row of a table.

Which rows a step looks up is told one step ahead. Their values are not sent ahead, because the step
between changes them.
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
from jobs.train.tables.wire import PendingPlaces, SentRows, start_places, start_rows


@dataclass(frozen=True)
class _Asked:
    """What this rank looks up in the tables, which their owners are being told.

    Attributes:
        batches: that look it up.
        ids: for each table, those of each lookup.
        keys: for each table, the places of these ids in the global batch's order, if that counts.
        distinct: for each table, its rows.
        places: that the ranks look up in this rank's pieces.
    """

    batches: tuple[Batch, ...]
    ids: list[list[Tensor]]
    keys: list[list[Tensor]]
    distinct: list[Distinct]
    places: PendingPlaces

    def is_of(self, batches: Sequence[Batch]) -> bool:
        """Whether these very batches look it up."""
        return list(map(id, self.batches)) == list(map(id, batches))


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
        self._ahead: _Asked | None = None
        self._step: list[_Step] = []
        self._order: Pending[list[SentRows]] | None = None
        self._gradients: Pending[list[SentRows]] | None = None

    @property
    def reference(self) -> Tensor:
        """A tensor of the model's dtype on its device; of sharded tables alone where it has no
        parameters of its own."""
        for parameter in self._model.parameters():
            return parameter
        return self.tables[0].piece.new_empty(0, dtype=self.tables[0].computed)

    # Not what a validation's inference mode makes: Horovod cannot send that.
    @torch.inference_mode(False)
    @torch.no_grad()
    def fetch(self, batches: Sequence[Batch], upcoming: Sequence[Batch] = ()) -> None:
        """Fetches the rows that forward passes over the batches look up; all ranks call this.

        Args:
            batches: on the CPU; those with only padding look up nothing.
            upcoming: those of the next call, where they are known: on all ranks or on none. Their
                owners are told meanwhile which rows they look up.
        """
        if not self.tables:
            return
        if self._ahead is not None and not self._ahead.is_of(batches):
            self.forget()
        asked, self._ahead = self._ahead or self._ask(batches), None
        places = asked.places.result()
        answers = [
            SentRows(table.piece.index_select(0, own.values), own.of_rank)
            for table, own in zip(self.tables, places, strict=True)
        ]
        counts = [own.of_owner for own in asked.distinct]
        sent = start_rows(self._exchange, "rows of tables", answers, counts)
        if upcoming:
            self._ahead = self._ask(upcoming)
        fetched = sent.result()
        self._step = [
            _Step(own, of, _lookups(table, rows.values, looked_up, own), of_keys)
            for own, of, table, rows, looked_up, of_keys in zip(
                asked.distinct, places, self.tables, fetched, asked.ids, asked.keys, strict=True
            )
        ]
        for table, known in zip(self.tables, self._step, strict=True):
            table.layer.lookups = list(known.lookups)

    def forget(self) -> None:
        """Ends the exchange that a step which does not come has begun; all ranks call this."""
        if self._ahead is not None:
            self._ahead.places.result()
            self._ahead = None

    def _ask(self, batches: Sequence[Batch]) -> _Asked:
        """Starts to tell owners which rows the batches look up."""
        ids, keys = self._found(batches)
        distinct = [
            distinct_rows(table.buckets, self._exchange.size, own)
            for table, own in zip(self.tables, ids, strict=True)
        ]
        rows = [SentRows(own.places, own.of_owner) for own in distinct]
        places = start_places(self._exchange, "rows to look up", rows)
        return _Asked(tuple(batches), ids, keys, distinct, places)

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
            return self.no_sizes
        if self._by_batch:
            rows = self._of_lookups()
        else:
            rows = [SentRows(_sums(known), known.distinct.of_owner) for known in self._step]
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
        places = [own.places for own in found]
        asked = start_places(self._exchange, "places of gradients", places).result()
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
        """The sum over all ranks of the squares of what `merged` returned; None without tables.

        It is added up bucket by bucket, so that its bits are the same at any number of ranks.
        """
        if not merged:
            return None
        count = max(table.buckets.count for table in self.tables)
        own = merged[0].values.new_zeros(count, dtype=torch.float64)
        for table, rows in zip(self.tables, merged, strict=True):
            buckets = grouped(table.buckets_of(rows.ids))
            squares = rows.values.double().square().sum(1, keepdim=True)
            own[buckets.ids.long()] += buckets.sums(squares).squeeze(1)
        # Only its owner adds to a bucket.
        (by_bucket,) = self._exchange.start_sums([own]).result()
        return by_bucket.sum()

    @property
    def no_sizes(self) -> Tensor:
        """What `start_gradients` returns where there are none: zeros [tables]."""
        return torch.zeros(len(self.tables))

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


def _sums(known: _Step) -> Tensor:
    """This rank's gradient of the fetched rows, [d, E]."""
    return known.distinct.sums(torch.cat([lookup.gradients for lookup in known.lookups]))
