"""Printing for readers that may have gone (`millstream ... | head`), which is no failure."""

from __future__ import annotations

import contextlib
import os
from typing import TextIO


def say(text: str, stream: TextIO) -> None:
    """Prints a text, at once."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=stream)
    flush(stream)


def flush(stream: TextIO) -> None:
    """Hands over what is buffered; nothing is left that would fail when Python ends."""
    try:
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
