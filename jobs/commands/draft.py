"""`millstream init`, which needs no settings: it proposes them."""

from __future__ import annotations

import sys

import click

from jobs.commands.options import command_without_settings


@command_without_settings(
    "propose a declaration and settings for a CSV or TSV file",
    details=": NAME.py and NAME.yaml, each line explained",
)
@click.option(
    "--from",
    "file",
    required=True,
    metavar="FILE",
    type=click.Path(readable=False),
    help="With a header.",
)
@click.option("--label", metavar="COLUMN", help="To predict; asked for when left out.")
@click.option(
    "--key", metavar="COLUMN,...", help="Which make a row unique within a date; '' if none do."
)
@click.option(
    "--date",
    metavar="COLUMN|DATE",
    help="The rows' date: a column, or one YYYY-MM-DD for all rows (default: a date in the file's "
    "path, or the only column that holds dates).",
)
@click.option("--name", metavar="NAME", help="Of the data set (default: the file's).")
@click.option(
    "--to",
    "folder",
    default=".",
    metavar="DIR",
    type=click.Path(readable=False),
    help="Folder (default: the current).",
)
def init(
    file: str, label: str | None, key: str | None, date: str | None, name: str | None, folder: str
) -> str:
    from jobs.init.job import Wishes, run

    keys = None if key is None else tuple(part.strip() for part in key.split(",") if part.strip())
    wishes = Wishes(file=file, folder=folder, label=label, key=keys, date=date, name=name)
    return run(wishes, _answer if sys.stdin is not None and sys.stdin.isatty() else None)


def _answer(question: str) -> str:
    """What the user types; empty where that is the end of the input (Ctrl-D)."""
    try:
        return input(question)
    except EOFError:
        return ""
