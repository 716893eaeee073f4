"""Whether Spark's JVM is gone, which pyspark tells by errors of its connection."""

from __future__ import annotations

import traceback

from jobs.base.errors import MillstreamError


def jvm_ended(error: BaseException) -> MillstreamError | None:
    """An error of a connection to a JVM that is no more, in a user's words; None for any other."""
    frames = traceback.extract_tb(error.__traceback__)
    in_py4j = any("/py4j/" in frame.filename for frame in frames)
    lost = isinstance(error, OSError | EOFError) or type(error).__name__ == "Py4JNetworkError"
    if not (in_py4j and lost):
        return None
    return MillstreamError(
        f"Spark's JVM has ended: {type(error).__name__}: {error}",
        "a JVM that lives as long as the command",
        "if nobody stopped it, the system did for lack of memory (see its log): lower "
        "spark.driver.memory, or take a larger machine; then run again: what was committed stands",
    )
