"""Spark's JVM: classes that it maps when it starts, and whether it is gone.

`make setup` keeps the classes in an archive of Java's Class Data Sharing
(https://docs.oracle.com/en/java/javase/17/vm/class-data-sharing.html), and Spark starts in half the
time. A JVM of another version, or with other jars, does without it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from jobs.base import quiet
from jobs.base.errors import MillstreamError
from jobs.base.quiet import JVM_OPTIONS

CLASSES = Path(sys.prefix, "share", "millstream", "spark-classes.jsa")


def with_classes(properties: Mapping[str, str], file: Path = CLASSES) -> dict[str, str]:
    """Spark's properties with the archive, if there is one and they name no other."""
    given = properties.get(JVM_OPTIONS, "")
    if not file.is_file() or "-XX:SharedArchiveFile" in given or "-XX:ArchiveClasses" in given:
        return dict(properties)
    # An archive that does not fit is no error; Java would say so on standard output.
    log = "" if quiet.is_verbose() else "-Xlog:disable -Xlog:all=error:stderr "
    # Of a path with spaces Spark makes one option by its quotes.
    return {**properties, JVM_OPTIONS: f'{log}"-XX:SharedArchiveFile={file}" {given}'.strip()}


def jvm_ended(error: BaseException) -> MillstreamError | None:
    """An error of a connection to a JVM that is no more, in a user's words; None for any other."""
    frames = traceback.extract_tb(error.__traceback__)
    in_py4j = any("/py4j/" in frame.filename for frame in frames)
    name = type(error).__name__
    lost = isinstance(error, OSError | EOFError) or name == "Py4JNetworkError"
    # An empty answer; one that tells of an error has its trace.
    said_nothing = str(error).startswith("An error occurred while") and "Trace:" not in str(error)
    lost |= name == "Py4JError" and said_nothing
    if not (in_py4j and lost):
        return None
    return MillstreamError(
        f"Spark's JVM has ended: {name}: {error}",
        "a JVM that lives as long as the command",
        "if nobody stopped it, the system did for lack of memory (see its log): lower "
        "spark.driver.memory, or take a larger machine; then run again: what was committed stands",
    )
