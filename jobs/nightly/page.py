"""The night's page: one HTML file that needs no network, with its steps and the gate's words."""

from __future__ import annotations

from jobs.base import pages
from jobs.lake.lake import Lake
from jobs.nightly.record import Record
from jobs.stores.files import write_whole

# Counts of rows that were refused with a reason of their own.
REFUSED_ROWS = ("quarantined", "label_absent")


def write(lake: Lake, night: Record) -> str:
    """Writes the page beside the record; returns its URL."""
    url = lake.folder("nights", f"{night.ds}.html")
    write_whole(url, render(lake, night).encode())
    return url


def render(lake: Lake, night: Record) -> str:
    found = night.steps["evaluate"].values
    reasons = found.get("reasons", ())
    return pages.render(
        "night.html",
        title=f"{lake.url.rstrip('/').rsplit('/', 1)[-1]}, night of {night.ds}",
        subtitle=_verdict(night),
        found=found,
        checks=[(words, words in reasons) for words in found.get("checks", ())],
        report=f"../reports/{found['report'].rsplit('/', 1)[-1]}" if "passed" in found else "",
        steps={name: step for name, step in night.steps.items() if name != "report"},
        counts=[
            (f"{name}, {what}", count)
            for name, step in night.steps.items()
            for what, count in step.values.get("counts", {}).items()
        ],
    )


def _verdict(night: Record) -> str:
    caught_up = f" It caught up {', '.join(night.caught_up)}." if night.caught_up else ""
    if night.refusal is None:
        return f"The data and the gate passed; {_refused_rows(night)}.{caught_up}"
    step, refused = night.refusal
    return f"Refused at step {step}, exit code {refused.exit_code}.{caught_up}"


def _refused_rows(night: Record) -> str:
    """Rows that were refused one by one, which a night may have that refused nothing else."""
    refused = {
        name: sum(step.values.get("counts", {}).get(what, 0) for what in REFUSED_ROWS)
        for name, step in night.steps.items()
    }
    parts = [f"{count:,} in {name}" for name, count in refused.items() if count]
    return f"single rows refused: {', '.join(parts)}" if parts else "no row was refused"
