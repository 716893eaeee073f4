"""How a delimited file is laid out: encoding, delimiter and header, from its first lines."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from jobs.base.errors import ConfigError, DataRefused

_DELIMITERS = (",", "\t", ";", "|")
_FIRST_BYTES = 1 << 20
_FIRST_LINES = 200
_NUMBER_OR_DATE = re.compile(r"\s*([-+]?[\d.,]+([eE][-+]?\d+)?|\d{4}-\d{2}-\d{2}.*)\s*")
_OTHER_FORMATS = (".json", ".jsonl", ".ndjson", ".parquet", ".orc", ".xlsx", ".xls", ".zip")


@dataclass(frozen=True)
class FileLayout:
    """Of a file of delimited text with a header."""

    encoding: str
    delimiter: str
    names: tuple[str, ...]


def layout_of(path: Path) -> FileLayout:
    """Reads a file's first lines, compressed or not.

    Raises:
        ConfigError: no such file, or one of another format.
        DataRefused: an empty file, no header, or a header whose names cannot be told apart.
    """
    _check_is_text_file(path)
    encoding, lines = _first_lines(path)
    if not lines:
        raise DataRefused(f"{path} is empty", "a header and at least one row")
    delimiter = _delimiter(path, lines)
    names = tuple(_values(lines[0], delimiter))
    _check_header(path, names)
    if len(lines) == 1:
        raise DataRefused(f"{path} has a header and no row", "at least one row")
    return FileLayout(encoding, delimiter, names)


def _check_is_text_file(path: Path) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"{path} {what}", "a file of delimited text (CSV, TSV)")
    if path.suffix.lower() in _OTHER_FORMATS:
        raise ConfigError(
            f"{path} is no delimited text, by its name",
            "CSV or TSV, plain or compressed (.gz, .bz2, .zst)",
            "write the declaration by hand for other formats, see docs/raw.md",
        )


def _first_lines(path: Path) -> tuple[str, list[str]]:
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            content = stream.read(_FIRST_BYTES + 1)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataRefused(f"{path} cannot be read: {error}", "a whole file") from error
    if b"\0" in content:
        raise DataRefused(f"{path} has bytes of value 0: it is no text, or UTF-16", "UTF-8 text")
    if len(content) > _FIRST_BYTES:
        # The last line may be cut.
        end = max(content.rfind(mark, 0, _FIRST_BYTES) for mark in (b"\n", b"\r"))
        if end < 0:
            raise DataRefused(f"{path} has no end of a line in its first MiB", "lines of text")
        content = content[: end + 1]
    try:
        encoding, text = "utf-8", content.decode("utf-8-sig")
    except UnicodeDecodeError:
        encoding, text = "latin-1", content.decode("latin-1")
    lines = (line for line in re.split(r"\r\n?|\n", text) if line.strip())
    return encoding, list(itertools.islice(lines, _FIRST_LINES))


def _delimiter(path: Path, lines: Sequence[str]) -> str:
    """That by which most lines have as many fields as the first, and the most fields."""

    def fit(delimiter: str) -> tuple[float, int]:
        widths = Counter(len(_values(line, delimiter)) for line in lines)
        width = len(_values(lines[0], delimiter))
        return (widths[width] / len(lines) if width > 1 else 0.0), width

    best = max(_DELIMITERS, key=fit)
    if fit(best)[0] < 0.5:
        raise DataRefused(
            f"{path}: no delimiter makes rows of the first line's length",
            "two or more columns, separated by a comma, tab, semicolon or bar",
            "look at the first lines; a line break inside a value ends the row",
        )
    return best


def _values(line: str, delimiter: str) -> list[str]:
    """Of one line, whatever its quotes are."""
    # A line has fewer characters than were read.
    csv.field_size_limit(max(csv.field_size_limit(), _FIRST_BYTES))
    return next(csv.reader([line], delimiter=delimiter))


def _check_header(path: Path, names: Sequence[str]) -> None:
    expected = "a first line with the columns' names"
    if data := [name for name in names if _NUMBER_OR_DATE.fullmatch(name)]:
        raise DataRefused(
            f"{path} has no header: the first line has the value {data[0]!r}",
            expected,
            "write the names into the first line",
        )
    if "" in (name.strip() for name in names):
        place = [name.strip() for name in names].index("") + 1
        raise DataRefused(f"{path}: column {place} has no name in the header", expected)
    # SQL does not tell upper from lower case.
    again = [name for name, n in Counter(name.lower() for name in names).items() if n > 1]
    if again:
        raise DataRefused(
            f"{path}: the header has the column {again[0]!r} more than once (whatever the case)",
            "names that differ",
        )
    if quoted := [name for name in names if '"' in name or "\n" in name]:
        raise DataRefused(
            f"{path}: the column {quoted[0]!r} has a quote in its name", "plain names"
        )
