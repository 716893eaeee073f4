"""Buffers that a forward pass must leave as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from jobs.base.errors import ConfigError


class Buffers:
    """A model's buffers, which each rank would change by its own rows."""

    def __init__(self, model: nn.Module) -> None:
        self._places = [
            (f"{name}.{key}".lstrip("."), module, key)
            for name, module in model.named_modules()
            for key in module._buffers
        ]

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Runs a block of forward passes.

        Raises:
            ConfigError: they changed buffers, whose names it has.
        """
        before = [(buffer, _version(buffer)) for buffer in self._now()]
        yield
        changed = [
            place[0]
            for place, (buffer, version), now in zip(self._places, before, self._now(), strict=True)
            if now is not buffer or _version(now) != version
        ]
        if changed:
            raise ConfigError(
                f"the model's forward pass changes its buffer {', '.join(changed)}",
                "a forward pass that only reads: a rank would change a copy of its own",
                "leave it out, or work it out when the model is made",
            )

    def _now(self) -> list[Tensor | None]:
        return [module._buffers.get(key) for _, module, key in self._places]


def _version(buffer: Tensor | None) -> int:
    """Counts the changes to a tensor's values; those made under inference mode have none."""
    return 0 if buffer is None or buffer.is_inference() else buffer._version
