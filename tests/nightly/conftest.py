"""Scripted nights."""

from tests.builders.nights import scripted

__all__ = ["scripted"]
