"""Everything that training needs to go on, copied to memory: a checkpoint before it is written.

The copy is all that the training path pays for. Replicas are equal, so one rank's copy is that of
all; what differs by rank (its random numbers) is collected from all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jobs.train.exchange.exchange import Exchange
from jobs.train.step.history import Position
from jobs.train.step.rowledger import RowLedger
from jobs.train.step.step import Step

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Snapshot:
    """Training at a position, on the CPU.

    Attributes:
        weights: of the model, with its buffers.
        optimizer: `<optimizer>/<parameter>/<name>` -> moments and the like.
        numbers: the same for what optimizers keep as plain numbers.
        random: uint8 [ranks, bytes], the states of each rank's generators.
    """

    weights: Tensors
    optimizer: Tensors
    numbers: dict[str, float]
    random: Tensor
    position: Position

    def tensors(self) -> Iterator[Tensor]:
        """All but the random numbers, in one order."""
        for of in (self.weights, self.optimizer):
            yield from (of[name] for name in sorted(of))

    def without_tensors(self) -> Snapshot:
        """The same with tensors that have shapes and dtypes, but no memory: small to send."""
        return self._mapped(lambda tensor: torch.empty_like(tensor, device="meta"))

    def empty(self) -> Snapshot:
        """What `without_tensors` gave, with memory of anything."""
        return self._mapped(lambda tensor: torch.empty_like(tensor, device="cpu"))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Snapshot:
        weights, optimizer = (
            {name: change(tensor) for name, tensor in of.items()}
            for of in (self.weights, self.optimizer)
        )
        return replace(self, weights=weights, optimizer=optimizer)


def take(
    step: Step, position: Position, ledger: RowLedger, reuse: Snapshot | None = None
) -> Snapshot:
    """Copies the training of all ranks; each of them must call it at the same position.

    Args:
        ledger: of the position's epoch, on this rank.
        reuse: its memory is written over: fresh pages cost more than the copy does.
    """
    sums = _summed(step.exchange, ledger, _random_state())
    optimizer, numbers = _optimizer_state(step)
    return Snapshot(
        weights=_copied(step.model.state_dict(), reuse.weights if reuse else {}),
        optimizer=_copied(optimizer, reuse.optimizer if reuse else {}),
        numbers=numbers,
        random=sums[1],
        position=replace(position, trained=ledger.of_parts(sums[0])),
    )


def restore(step: Step, snapshot: Snapshot) -> None:
    """Sets model, optimizers and this rank's random numbers back, in place.

    A rank that the snapshot does not know keeps the random numbers that it has.
    """
    step.model.load_state_dict(snapshot.weights)
    for number, optimizer in enumerate(step.optimizers):
        states: dict[int, dict[str, Tensor | float]] = {}
        for name, value in _values(snapshot):
            of, parameter, key = name.split("/")
            if int(of) == number:
                copy = value.clone() if isinstance(value, Tensor) else value
                states.setdefault(int(parameter), {})[key] = copy
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states, "param_groups": groups})
    if step.exchange.rank < len(snapshot.random):
        _set_random_state(snapshot.random[step.exchange.rank])


def _values(snapshot: Snapshot) -> Iterator[tuple[str, Tensor | float]]:
    yield from snapshot.optimizer.items()
    yield from snapshot.numbers.items()


def _optimizer_state(step: Step) -> tuple[Tensors, dict[str, float]]:
    tensors: Tensors = {}
    numbers: dict[str, float] = {}
    for number, optimizer in enumerate(step.optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                name = f"{number}/{parameter}/{key}"
                if isinstance(value, Tensor):
                    tensors[name] = value
                else:
                    numbers[name] = value
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


def _summed(exchange: Exchange, ledger: RowLedger, random: Tensor) -> tuple[Tensor, Tensor]:
    """The ranks' ledgers added up and their generators side by side, in one round."""
    padded = torch.zeros(-(-len(random) // 8) * 8, dtype=torch.uint8)
    padded[: len(random)] = random
    words = torch.zeros(exchange.size, len(padded) // 8, dtype=torch.int64)
    # A sum in which all ranks but one add zeros gathers, with what every exchange has.
    words[exchange.rank] = padded.view(torch.int64)
    parts, gathered = exchange.start_sums([ledger.parts(), words])()
    return parts, gathered.view(torch.uint8)[:, : len(random)].clone()


def _random_state() -> Tensor:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states)


def _set_random_state(state: Tensor) -> None:
    cpu = len(torch.get_rng_state())
    torch.set_rng_state(state[:cpu].clone())
    if len(state) > cpu and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[cpu:].clone())
