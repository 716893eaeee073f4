"""Errors that a user can cause, each with the exit code that it ends the command with."""

from __future__ import annotations

import difflib
from collections.abc import Collection


class MillstreamError(Exception):
    """Ends a command with `exit_code` and the message, without a stack trace.

    Args:
        found: what was found.
        expected: what was expected instead.
        remedy: what to do.
    """

    exit_code = 1

    def __init__(self, found: str, expected: str = "", remedy: str = "") -> None:
        self.found, self.expected, self.remedy = found, expected, remedy
        parts = [found, expected and f"expected: {expected}", remedy and f"to do: {remedy}"]
        super().__init__("\n  ".join(part for part in parts if part))

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.found, self.expected, self.remedy)


class ConfigError(MillstreamError):
    """The command line, the settings or the declaration cannot be used."""

    exit_code = 2


class DataRefused(MillstreamError):
    """The data broke a rule that stops the run; the tables are as they were."""

    exit_code = 3


class DateRefused(DataRefused):
    """The rows of one date, all together, broke a rule. `metrics` is what was measured."""

    def __init__(
        self, found: str, expected: str = "", remedy: str = "", ds: str = "", **metrics: float
    ) -> None:
        super().__init__(found, expected, remedy)
        self.ds, self.metrics = ds, metrics


class NoRawFile(DataRefused):
    """No raw file of a date has landed, which is not the same as a date without rows."""


class GateRefused(MillstreamError):
    """The model did not pass the gate; the champion is as it was."""

    exit_code = 4


class Locked(MillstreamError):
    """Another run holds the stage."""

    exit_code = 5


def refuse_unknown(setting: str, names: Collection[str], known: Collection[str]) -> None:
    """Refuses a setting with names that are not known.

    Raises:
        ConfigError: names the nearest one.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            raise ConfigError(
                f"{setting}: {name!r} is unknown"
                + (f"; did you mean {near[0]!r}?" if near else ""),
                f"some of {', '.join(sorted(known)) or 'none: the declaration has none'}",
            )
