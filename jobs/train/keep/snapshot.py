"""A snapshot: all that training needs to go on, copied to the host's memory.

Training waits for this copy only; a checkpoint is written from it later. Model and optimizers are
the same on all ranks, so each rank copies its own; of sharded tables each keeps its own pieces and
those of the rank before. The states of the random number generators differ by rank, so each rank
gets those of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jobs.models.tables.buckets import Buckets
from jobs.models.tables.pieces import ROWS
from jobs.models.ties import set_state, state_of
from jobs.train.exchange.exchange import Exchange
from jobs.train.keep.replicas import check_replicas, sum_of_bits
from jobs.train.step.history import Position
from jobs.train.step.rowledger import RowLedger
from jobs.train.step.step import Step
from jobs.train.tables.copies import Pieces
from jobs.train.tables.kept import KeptTables
from jobs.train.tables.room import MEMORY, Room
from jobs.train.tables.table import ShardedTable

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Snapshot:
    """The state of training at a position, on the CPU.

    Attributes:
        weights: the model's parameters and buffers, by name.
        optimizer: the optimizers' tensors, by `<optimizer>/<parameter>/<name>`, where optimizers
            and parameters are numbered.
        numbers: what optimizers keep as Python numbers, by the same names.
        random: uint8 [ranks, bytes], the state of each rank's random number generators.
        position: of the training.
        tables: what this rank keeps of sharded tables, which are not among `weights` and
            `optimizer`; None without any. The next snapshot changes it.
    """

    weights: Tensors
    optimizer: Tensors
    numbers: dict[str, float]
    random: Tensor
    position: Position
    tables: KeptTables | None = None

    def tensors(self) -> Iterator[Tensor]:
        """The tensors of `weights` and `optimizer`, always in the same order."""
        for of in (self.weights, self.optimizer):
            yield from (of[name] for name in sorted(of))

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors, of tables those of this rank's pieces."""
        pieces = self.tables.nbytes if self.tables else 0
        return sum(tensor.nbytes for tensor in self.tensors()) + pieces

    def without_tensors(self) -> Snapshot:
        """The same snapshot, small to send: its tensors have shapes and dtypes, but no values."""
        small = self._mapped(lambda tensor: torch.empty_like(tensor, device="meta"))
        return replace(small, tables=self.tables.outline() if self.tables else None)

    def empty(self) -> Snapshot:
        """The same snapshot with tensors in memory, whose values are undefined."""
        return self._mapped(lambda tensor: torch.empty_like(tensor, device="cpu"))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Snapshot:
        weights, optimizer = (
            {name: change(tensor) for name, tensor in of.items()}
            for of in (self.weights, self.optimizer)
        )
        return replace(self, weights=weights, optimizer=optimizer)


def take(
    step: Step,
    position: Position,
    ledger: RowLedger,
    reuse: Snapshot | None = None,
    kept: KeptTables | None = None,
    room: Room = MEMORY,
) -> Snapshot:
    """Takes a snapshot. All ranks must call this at the same position.

    Args:
        ledger: this rank's row ledger of the current epoch.
        reuse: the snapshot before, which is overwritten once all ranks are here: no second one is
            held. New memory takes longer to get than the copy does, too.
        kept: what the snapshot before has of sharded tables, which the rows that changed since are
            copied to. All of them are copied when None.
        room: for these copies.

    Raises:
        ReplicasDiffer: the weights are not the same on all ranks.
    """
    weights = state_of(step.model)
    parts, random, bits = _summed(step.exchange, ledger, _random_state(), sum_of_bits(weights))
    check_replicas(bits, position)
    optimizer, numbers = _optimizer_state(step)
    touched = {table.name: table.touched for table in step.sharded.tables}
    if kept is None:
        kept = kept_now(step, room)
    else:
        kept.commit(step.exchange, live_pieces(step), touched)
    return Snapshot(
        weights=_copied(weights, reuse.weights if reuse else {}),
        optimizer=_copied(optimizer, reuse.optimizer if reuse else {}),
        numbers=numbers,
        random=random,
        position=replace(position, trained=ledger.of_parts(parts)),
        tables=kept,
    )


def kept_now(step: Step, room: Room) -> KeptTables | None:
    """Copies of a step's whole pieces; None without sharded tables. All ranks must call this."""
    if not step.sharded.tables:
        return None
    kept = KeptTables.of(step.exchange, buckets_of(step), live_pieces(step), room)
    for table in step.sharded.tables:
        table.touched.zero_()
    return kept


def buckets_of(step: Step) -> dict[str, Buckets]:
    """Those of each sharded table."""
    return {table.name: table.buckets for table in step.sharded.tables}


def live_rows(step: Step) -> dict[str, Tensor]:
    """The rows of this rank's pieces of sharded tables, as they are being trained."""
    return {table.name: table.piece.detach() for table in step.sharded.tables}


def live_pieces(step: Step) -> Pieces:
    """The same, with their moments."""
    found: Pieces = {name: {ROWS: rows} for name, rows in live_rows(step).items()}
    for optimizer in step.optimizers:
        for table in _pieces(step, optimizer).values():
            state = optimizer.state.get(table.piece, {})
            found[table.name] |= {key: of for key, of in state.items() if of.dim()}
    return found


def restore(step: Step, snapshot: Snapshot, pieces: Pieces | None = None) -> None:
    """Sets model, optimizers and this rank's random number generators to a snapshot.

    A rank beyond the number of ranks that took it keeps its generators as they are.

    Args:
        pieces: this rank's, of sharded tables, whose rows are `live_rows` already; their moments
            become part of the optimizers' state.
    """
    set_state(step.model, snapshot.weights)
    for number, optimizer in enumerate(step.optimizers):
        states: dict[int, dict[str, Tensor | float]] = {}
        for name, value in _values(snapshot):
            of, parameter, key = name.split("/")
            if int(of) == number:
                copy = value.clone() if isinstance(value, Tensor) else value
                states.setdefault(int(parameter), {})[key] = copy
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states, "param_groups": groups})
        for table in _pieces(step, optimizer).values():
            moments = (pieces or {})[table.name].items()
            optimizer.state[table.piece] |= {key: of for key, of in moments if key != ROWS}
    if step.exchange.rank < len(snapshot.random):
        _set_random_state(snapshot.random[step.exchange.rank])


def _values(snapshot: Snapshot) -> Iterator[tuple[str, Tensor | float]]:
    yield from snapshot.optimizer.items()
    yield from snapshot.numbers.items()


def _pieces(step: Step, optimizer: torch.optim.Optimizer) -> dict[int, ShardedTable]:
    """The sharded tables that an optimizer updates, by the number that it gives their piece."""
    tables = {id(table.piece): table for table in step.sharded.tables}
    parameters = [own for group in optimizer.param_groups for own in group["params"]]
    return {n: tables[id(own)] for n, own in enumerate(parameters) if id(own) in tables}


def _optimizer_state(step: Step) -> tuple[Tensors, dict[str, float]]:
    tensors: Tensors = {}
    numbers: dict[str, float] = {}
    for number, optimizer in enumerate(step.optimizers):
        pieces = _pieces(step, optimizer)
        for parameter, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                name = f"{number}/{parameter}/{key}"
                if not isinstance(value, Tensor):
                    numbers[name] = value
                elif not (parameter in pieces and value.dim()):
                    tensors[name] = value
    return tensors, numbers


def _copied(tensors: Mapping[str, Tensor], reuse: Mapping[str, Tensor]) -> Tensors:
    copies: Tensors = {}
    for name, tensor in tensors.items():
        old = reuse.get(name)
        if old is not None and old.shape == tensor.shape and old.dtype == tensor.dtype:
            copies[name] = old.copy_(tensor.detach())
        else:
            copies[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return copies


def _summed(
    exchange: Exchange, ledger: RowLedger, random: Tensor, bits: int
) -> tuple[Tensor, Tensor, list[int]]:
    """The sum of all ranks' ledgers, and what each rank has, in one exchange.

    Args:
        random: uint8 [bytes], the state of this rank's generators.
        bits: of its weights.

    Returns:
        int64 [3], the sum of `RowLedger.parts`; uint8 [ranks, bytes], the generators' states; the
        bits of all ranks.
    """
    padded = torch.zeros(-(-len(random) // 8) * 8, dtype=torch.uint8)
    padded[: len(random)] = random
    # int64 [ranks, padded bytes / 8 + 1]. To each row of the sum, all ranks but one add zeros.
    own = torch.zeros(exchange.size, len(padded) // 8 + 1, dtype=torch.int64)
    own[exchange.rank, :-1] = padded.view(torch.int64)
    own[exchange.rank, -1] = bits
    parts, of_ranks = exchange.start_sums([ledger.parts(), own]).result()
    states = of_ranks[:, :-1].contiguous().view(torch.uint8)[:, : len(random)]
    return parts, states.clone(), of_ranks[:, -1].tolist()


def _random_state() -> Tensor:
    """The states of torch's generators, of the CPU and then of the GPU if any: uint8 [bytes]."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states)


def _set_random_state(state: Tensor) -> None:
    cpu = len(torch.get_rng_state())
    torch.set_rng_state(state[:cpu].clone())
    if len(state) > cpu and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[cpu:].clone())
