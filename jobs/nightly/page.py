"""The night's page: one HTML file that needs no network, with its steps and the gate's words."""

from __future__ import annotations

from html import escape
from typing import Any

from jobs.evaluate.report.page import PAGE, STYLE
from jobs.lake.lake import Lake
from jobs.lake.store import write_whole
from jobs.nightly.record import Record


def write(lake: Lake, night: Record) -> str:
    """Writes the page beside the record; returns its URL."""
    url = lake.folder("nights", f"{night.ds}.html")
    write_whole(url, render(lake, night).encode())
    return url


def render(lake: Lake, night: Record) -> str:
    title = f"{lake.url.rstrip('/').rsplit('/', 1)[-1]}, night of {night.ds}"
    parts = [
        f"<header><h1>{escape(title)}</h1><p>{escape(_verdict(night))}</p></header>",
        _gate(night.steps["evaluate"].values),
        _steps(night),
        _counts(night),
    ]
    body = "\n".join(part for part in parts if part)
    return PAGE.format(title=escape(title), style=STYLE, body=body)


def _verdict(night: Record) -> str:
    caught_up = f" It caught up {', '.join(night.caught_up)}." if night.caught_up else ""
    if night.refusal is None:
        return f"Nothing was refused.{caught_up}"
    step, refused = night.refusal
    return f"Refused at step {step}, exit code {refused.exit_code}.{caught_up}"


def _gate(judged: Any) -> str:
    if "passed" not in judged:
        return ""
    kind = "passed" if judged["passed"] else "refused"
    checks = "".join(
        f"<li class='{'no' if words in judged['reasons'] else 'yes'}'>{escape(words)}</li>"
        for words in judged["checks"]
    )
    report = f"../reports/{judged['report'].rsplit('/', 1)[-1]}"
    return (
        f"<section class='verdict {kind}'><h2>Gate: {kind}</h2><ul>{checks}</ul>"
        f"<p><a href='{escape(report)}'>the evaluation's report</a></p></section>"
    )


def _steps(night: Record) -> str:
    rows = "".join(
        f"<tr><th>{name}</th><td>{step.status}</td><td>{step.seconds:.0f} s</td>"
        f"<td>{escape(step.message)}</td></tr>"
        for name, step in night.steps.items()
        if name != "report"
    )
    return f"<section class='wide'><h2>Steps</h2><table>{rows}</table></section>"


def _counts(night: Record) -> str:
    rows = "".join(
        f"<tr><th>{name}, {escape(what)}</th><td>{count:,}</td></tr>"
        for name, step in night.steps.items()
        for what, count in step.values.get("counts", {}).items()
    )
    return f"<section class='facts'><h2>Rows</h2><table>{rows}</table></section>" if rows else ""
