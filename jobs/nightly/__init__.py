"""The night: what any scheduler calls with a date, again and again if it likes.

`nightly.run` does one; it is loaded when it is asked for, so that commands that only read the
record, or `--help`, need not wait for the jobs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.nightly.job import NightlyResult, run

__all__ = ["NightlyResult", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jobs.nightly import job

    return getattr(job, name)
