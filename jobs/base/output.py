"""Printing for readers that may have gone (`millstream ... | head`), which is no failure."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TextIO


def open_outputs() -> None:
    """Standard output and error take any text, also where they were closed, or cannot show it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # It gets the lowest number that is free, mostly its own, so that no other file does.
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def say(text: str, stream: TextIO) -> None:
    """Prints a text, at once; raises as `flush`."""
    try:
        with contextlib.suppress(BrokenPipeError):
            print(text, file=stream)
    finally:
        flush(stream)


def complain(text: str) -> None:
    """Prints a text on standard error. That it cannot be written changes no exit code."""
    with contextlib.suppress(OSError):
        say(text, sys.stderr)


def flush(stream: TextIO) -> None:
    """Hands over what is buffered; nothing is left that would fail when Python ends.

    Raises:
        OSError: it cannot be written, for another reason than that the reader has gone.
    """
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise
