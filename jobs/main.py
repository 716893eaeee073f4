"""The commands: `millstream COMMAND`, and the three spark-submit files, which take the same.

Exit codes: 0 done; 1 unexpected; 2 usage or settings; 3 data refused; 4 gate refused; 5 locked
by another run.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TypeAlias

from jobs import commands as run
from jobs.base.errors import MillstreamError
from jobs.base.termination import Terminated, terminable
from jobs.lake.store import is_of_client, store_failed
from jobs.nightly.record import STEPS
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_EXIT_CODES = __doc__.split("\n\n")[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("millstream").setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    try:
        with terminable():
            _say(_done(arguments))
    except MillstreamError as error:
        print(f"millstream: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print("millstream: interrupted; nothing half-written is visible", file=sys.stderr)
        return error.exit_code if isinstance(error, Terminated) else 130
    except Exception as error:
        if is_of_client(error):
            print(f"millstream: {store_failed(error)}", file=sys.stderr)
            return 1
        traceback.print_exc()
        print(
            "millstream: this was not expected; what was committed before stands, nothing "
            "half-written is visible. Please report the lines above.",
            file=sys.stderr,
        )
        return 1
    return 0


def _done(arguments: argparse.Namespace) -> str:
    """What the command has to say in the end."""
    if arguments.config is None:
        return run.init(arguments)
    command: Callable[[argparse.Namespace, Settings], str] = arguments.command
    text: str = command(arguments, load_settings(arguments.config, arguments.set))
    return text


def _say(text: str) -> None:
    """Prints the last line; a reader that has gone (`| head`) is no failure."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is still in the buffer would be tried again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="millstream",
        description="Raw files become shards, a trained model and predictions.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parsers = parser.add_subparsers(metavar="COMMAND", required=True)

    _init_command(parsers)
    _line_commands(parsers)
    _model_commands(parsers)
    _table_commands(parsers)
    return parser


def _init_command(parsers: Commands) -> None:
    text = "propose a declaration and settings for a CSV or TSV file"
    init = parsers.add_parser(
        "init",
        help=text,
        description=f"{text[0].upper()}{text[1:]}: NAME.py and NAME.yaml, each line explained.",
        epilog=_EXIT_CODES,
    )
    init.set_defaults(config=None)
    init.add_argument("--from", dest="file", required=True, metavar="FILE", help="with a header")
    init.add_argument("--label", metavar="COLUMN", help="what to predict; asked when left out")
    init.add_argument(
        "--key", metavar="COLUMN,...", help="what makes a row unique within a date; '' for nothing"
    )
    init.add_argument(
        "--date",
        metavar="COLUMN|DATE",
        help="the rows' date: a column, or a YYYY-MM-DD for all; else a date in the file's path, "
        "or the only column of dates",
    )
    init.add_argument("--name", metavar="NAME", help="of the data set; the file's by default")
    init.add_argument("--to", default=".", metavar="DIR", help="where to; here by default")
    init.add_argument("--quiet", action="store_true", help="print the last line only")


def _line_commands(parsers: Commands) -> None:
    """The steps of the line, in their order."""
    etl = _command(parsers, "etl", run.etl, "turn raw files of some dates into examples")
    _add_dates(etl, "the dates to (re)make")
    etl.add_argument(
        "--rebuild",
        action="store_true",
        help="start a new generation: the dates become all there is, with a fresh id log; needed "
        "after a change of the declaration",
    )

    _command(
        parsers,
        "refit",
        run.refit,
        "make all dates anew with a fresh vocabulary (a new generation)",
    )

    train = _command(parsers, "train", run.train, "train a model on the examples and register it")
    train.add_argument("--workers", type=int, metavar="N", help="Horovod ranks (train.workers)")
    train.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|RUN",
        help="go on with an unfinished run that fits (default), with none, or with this one",
    )
    train.add_argument("--until", type=_date, metavar="DATE", help="train on dates up to this one")

    evaluate = _command(parsers, "evaluate", run.evaluate, "measure a registered model")
    evaluate.add_argument(
        "--model", default="latest", metavar="VERSION|ALIAS", help="default: the newest version"
    )

    score = _command(
        parsers, "score", run.score, "write predictions for the raw rows of some dates"
    )
    _add_dates(score, "the dates to score")
    score.add_argument(
        "--model", default="champion", metavar="VERSION|ALIAS", help="default: champion"
    )

    _nightly_command(parsers)
    _status_command(parsers)


def _nightly_command(parsers: Commands) -> None:
    nightly = _command(
        parsers,
        "nightly",
        run.nightly,
        "etl, train, evaluate, gate, score and report of a date; again, it goes on where it was",
    )
    _add_dates(nightly, "the night; of a range, the model is the last date's")
    again = nightly.add_mutually_exclusive_group()
    again.add_argument(
        "--from", dest="start", choices=STEPS, help="do this step and the later ones again"
    )
    again.add_argument(
        "--force", action="store_true", help="do all steps, or that of --only, again"
    )
    nightly.add_argument("--only", choices=STEPS, help="do this step alone, on the same record")


def _status_command(parsers: Commands) -> None:
    status = _command(parsers, "status", run.status, "show the last nights")
    status.add_argument(
        "--nights", type=int, default=14, metavar="N", help="how many (default: 14)"
    )
    status.add_argument("--json", action="store_true", help="all that is on record, as JSON")


def _model_commands(parsers: Commands) -> None:
    rollback = _command(
        parsers, "rollback", run.rollback, "make the previous champion the champion again"
    )
    rollback.add_argument("--to", metavar="VERSION", help="a version that was champion before")

    _command(parsers, "models", run.models, "list the registered models and champions")

    export = _command(parsers, "export", run.export, "write a model as a file that others run")
    export.add_argument(
        "--model", default="champion", metavar="VERSION|ALIAS", help="default: champion"
    )
    export.add_argument("--format", choices=("onnx", "torchscript"), default="onnx")
    export.add_argument("--to", required=True, metavar="FOLDER", help="a new folder")


def _table_commands(parsers: Commands) -> None:
    compact = _command(
        parsers, "compact", run.compact, "merge the small shards of dates; all dates by default"
    )
    _add_dates(compact, "the dates to compact", required=False)

    erase = _command(
        parsers, "erase", run.erase, "remove entities' rows from examples, quarantine, predictions"
    )
    erase.add_argument(
        "--key",
        nargs="+",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="a raw column and its value; several together must all match; may be given again",
    )
    erase.add_argument(
        "--keys", metavar="FILE", help="a CSV file of keys, its header the columns' names"
    )

    vacuum = _command(
        parsers, "vacuum", run.vacuum, "drop dates past retention and remove files of no use"
    )
    vacuum.add_argument(
        "--older-than",
        type=float,
        default=168.0,
        metavar="HOURS",
        help="keep what was written, or was the newest version, within that time (default: 168); "
        "give it longer than the longest run",
    )
    vacuum.add_argument(
        "--force", action="store_true", help="remove also what models and checkpoints name"
    )
    vacuum.add_argument("--dry-run", action="store_true", help="change nothing, say what would go")

    files = _command(parsers, "files", run.files, "list the Parquet files of an examples version")
    files.add_argument("--version", type=int, metavar="N", help="default: the newest")
    files.add_argument("--split", choices=("train", "val", "test"), help="default: all")


def _command(
    parsers: Commands,
    name: str,
    command: Callable[[argparse.Namespace, Settings], str],
    text: str,
) -> argparse.ArgumentParser:
    parser = parsers.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=_EXIT_CODES
    )
    parser.set_defaults(command=command)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings, a YAML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a setting; may be given several times",
    )
    parser.add_argument("--quiet", action="store_true", help="print the last line only")
    return parser


def _add_dates(parser: argparse.ArgumentParser, text: str, required: bool = True) -> None:
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--date", type=_date, metavar="DATE", help=f"{text}, as YYYY-MM-DD")
    group.add_argument("--dates", type=date_range, metavar="FIRST..LAST", help="both included")


def _date(text: str) -> str:
    try:
        return dt.date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no date YYYY-MM-DD: {error}") from error


def date_range(text: str) -> list[str]:
    first, dots, last = text.partition("..")
    if not dots:
        raise argparse.ArgumentTypeError(f"{text!r} is no range FIRST..LAST of dates YYYY-MM-DD")
    start, end = dt.date.fromisoformat(_date(first)), dt.date.fromisoformat(_date(last))
    if start > end:
        raise argparse.ArgumentTypeError(f"{text!r} ends before it starts")
    return [str(start + dt.timedelta(days)) for days in range((end - start).days + 1)]


if __name__ == "__main__":
    sys.exit(main())
