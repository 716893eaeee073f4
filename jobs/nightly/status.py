"""`millstream status`: the last nights on record, as a table, a list or JSON; and the studies."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence, Set

from jobs.lake.lake import Lake
from jobs.lake.lock import live_runs
from jobs.nightly.names import STEPS
from jobs.nightly.record import STARTED, WAITING, Record, dates_of, load, to_json
from jobs.registry.listing import text_table
from jobs.tune.progress import lines_of, shown_studies, trees_of

# The first of these that was measured says how good a model is.
_MEASURES = ("auc", "accuracy", "rmse")


def status(lake: Lake, nights: int, as_json: bool) -> str:
    """The last nights, oldest first, as many searches that ended, and all that have not.

    On a terminal too narrow for the table, each night is a few lines; piped, the table is whole.
    """
    records = [load(lake, ds) for ds in dates_of(lake)[-nights:]]
    studies, live = shown_studies(lake, nights), live_runs(lake)
    if as_json:
        tree = {"nights": [to_json(one) for one in records], "studies": trees_of(studies, live)}
        return json.dumps(tree, indent=1)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    nights_text = f"no night is on record in {lake.folder('nights')}"
    if records:
        nights_text = rendered(records, live, width)
    return "\n".join([nights_text, *lines_of(studies, live)])


def rendered(records: Sequence[Record], live: Set[str], width: int | None) -> str:
    """The nights as text.

    Args:
        live: runs that hold a lock now.
        width: columns of the terminal; None where there is none.
    """
    measure = _measure(records)
    counted = ("rows", "refused", measure, "measured on")
    heads = ("date", *STEPS, *counted, "champion", "seconds", "exit")
    lines = [line for record in records for line in _lines(record, live, measure)]
    table = text_table(heads, lines)
    if width is None or max(map(len, table.splitlines())) <= width:
        return table
    return "\n".join(_narrow(dict(zip(heads, line, strict=True)), width) for line in lines)


def _lines(night: Record, live: Set[str], measure: str) -> list[tuple[str, ...]]:
    """The night; one that is done again, and not finished yet, has a line for each."""
    if night.stands is None:
        return [_cells(night.ds, night, live, measure)]
    return [
        _cells(night.ds, night.stands, live, measure),
        _cells(f"{night.ds} again", night, live, measure),
    ]


def _cells(title: str, night: Record, live: Set[str], measure: str) -> tuple[str, ...]:
    counts = night.steps["etl"].values.get("counts", {})
    measured = night.steps["evaluate"].values
    value = measured.get("metrics", {}).get(measure)
    return (
        title,
        *(_word(night, name, live) for name in STEPS),
        f"{counts['raw']:,}" if "raw" in counts else "",
        f"{counts['quarantined']:,}" if "quarantined" in counts else "",
        f"{value:.4f}" if value is not None else "",
        measured.get("measured_on", ""),
        night.champion,
        f"{night.seconds:,.0f}",
        str(night.exit_code) if night.is_finished or night.exit_code else "",
    )


def _word(night: Record, name: str, live: Set[str]) -> str:
    """A step that began and did not end is at work only while its night holds the lock."""
    status = night.steps[name].status
    if status == STARTED:
        return "running" if night.run in live else "killed"
    return "-" if status == WAITING else status


def _measure(records: Sequence[Record]) -> str:
    known = {name for r in records for name in r.steps["evaluate"].values.get("metrics", {})}
    return next((name for name in _MEASURES if name in known), _MEASURES[0])


def _narrow(cells: dict[str, str], width: int) -> str:
    # Neither a name and its cell nor a word is cut, so that both can be read and searched for.
    parts = [f"{name}\u00a0{cell}" for name, cell in cells.items() if name != "date" and cell]
    lines = textwrap.wrap(
        ", ".join(parts), max(width - 2, 1), break_long_words=False, break_on_hyphens=False
    )
    return "\n".join([cells["date"], *(f"  {line}".replace("\u00a0", " ") for line in lines)])
