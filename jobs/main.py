"""The commands: `millstream COMMAND`, and the three spark-submit files, which take the same.

Exit codes: 0 done; 1 unexpected; 2 usage or settings; 3 data refused; 4 gate refused; 5 locked
by another run.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TypeAlias

from jobs import commands as run
from jobs.base.errors import MillstreamError
from jobs.base.output import flush, say
from jobs.base.quiet import start_log
from jobs.base.termination import Terminated, terminable
from jobs.lake.store import is_of_client, store_failed
from jobs.nightly.record import STEPS
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_EXIT_CODES = __doc__.split("\n\n")[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    try:
        arguments = _parser().parse_args(argv)
    finally:
        flush(sys.stdout)
    start_log(arguments.verbose, logging.WARNING if arguments.quiet else logging.INFO)
    try:
        with terminable():
            say(_done(arguments), sys.stdout)
    except MillstreamError as error:
        say(f"millstream: {error}", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        say("millstream: interrupted; nothing half-written is visible", sys.stderr)
        return error.exit_code if isinstance(error, Terminated) else 130
    except Exception as error:
        if is_of_client(error):
            say(f"millstream: {store_failed(error)}", sys.stderr)
            return 1
        say(traceback.format_exc(), sys.stderr)
        say(
            "millstream: this was not expected; what was committed before stands, nothing "
            "half-written is visible. Please report the lines above.",
            sys.stderr,
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="millstream",
        description="Validates raw files, trains a model on them and writes predictions, by date.",
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
    init.add_argument("--label", metavar="COLUMN", help="to predict; asked for when left out")
    init.add_argument(
        "--key", metavar="COLUMN,...", help="which make a row unique within a date; '' if none do"
    )
    init.add_argument(
        "--date",
        metavar="COLUMN|DATE",
        help="the rows' date: a column, or one YYYY-MM-DD for all rows (default: a date in the "
        "file's path, or the only column that holds dates)",
    )
    init.add_argument("--name", metavar="NAME", help="of the data set (default: the file's)")
    init.add_argument("--to", default=".", metavar="DIR", help="folder (default: the current)")
    _add_talk(init)


def _line_commands(parsers: Commands) -> None:
    """The steps of the line, in their order."""
    etl = _command(parsers, "etl", run.etl, "validate and encode the raw files of some dates")
    _add_dates(etl, "date to process; if it was processed before, that is replaced")
    etl.add_argument(
        "--rebuild",
        action="store_true",
        help="start over (a new generation): only these dates remain, with a fresh vocabulary; "
        "needed after a change of the declaration",
    )

    _command(parsers, "refit", run.refit, "process all dates again, with a fresh vocabulary")

    train = _command(parsers, "train", run.train, "train a model on the examples and register it")
    train.add_argument("--workers", type=int, metavar="N", help="default: train.workers")
    train.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|RUN",
        help="continue an unfinished run that fits settings and data (auto, the default), none, "
        "or the run of this name",
    )
    train.add_argument("--until", type=_date, metavar="DATE", help="newest date to train on")

    evaluate = _command(parsers, "evaluate", run.evaluate, "measure a model on held-out rows")
    _add_model(evaluate, "latest")

    score = _command(parsers, "score", run.score, "predict for the raw files of some dates")
    _add_dates(score, "date to score")
    _add_model(score, "champion")

    _nightly_command(parsers)
    _status_command(parsers)


def _nightly_command(parsers: Commands) -> None:
    nightly = _command(
        parsers,
        "nightly",
        run.nightly,
        "run etl, train, evaluate, gate, score and report for a date; called again, it continues",
    )
    _add_dates(nightly, "date of the night")
    again = nightly.add_mutually_exclusive_group()
    again.add_argument(
        "--from", dest="start", choices=STEPS, help="repeat this step and those after it"
    )
    again.add_argument("--force", action="store_true", help="repeat all steps, or that of --only")
    nightly.add_argument("--only", choices=STEPS, help="run this step alone")


def _status_command(parsers: Commands) -> None:
    status = _command(parsers, "status", run.status, "show what the last nights did")
    status.add_argument(
        "--nights", type=int, default=14, metavar="N", help="how many nights (default: 14)"
    )
    status.add_argument("--json", action="store_true", help="print all that is recorded, as JSON")


def _model_commands(parsers: Commands) -> None:
    rollback = _command(
        parsers, "rollback", run.rollback, "make the previous champion the champion again"
    )
    rollback.add_argument("--to", metavar="VERSION", help="default: the champion before this one")

    _command(parsers, "models", run.models, "list the registered models, and which is champion")

    export = _command(parsers, "export", run.export, "write a model as ONNX or TorchScript")
    _add_model(export, "champion")
    export.add_argument(
        "--format", choices=("onnx", "torchscript"), default="onnx", help="default: onnx"
    )
    export.add_argument("--to", required=True, metavar="FOLDER", help="folder to create")


def _table_commands(parsers: Commands) -> None:
    compact = _command(parsers, "compact", run.compact, "merge small shards into larger ones")
    _add_dates(compact, "date to compact (default: all)", required=False)

    erase = _command(parsers, "erase", run.erase, "delete rows of some entities from all tables")
    erase.add_argument(
        "--key",
        nargs="+",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="rows to delete: a raw column and its value; of several after one --key all must "
        "match; may be repeated",
    )
    erase.add_argument(
        "--keys", metavar="FILE", help="a CSV file of such values, its header names the columns"
    )

    vacuum = _command(parsers, "vacuum", run.vacuum, "delete expired dates and unused files")
    vacuum.add_argument(
        "--older-than",
        type=float,
        default=168.0,
        metavar="HOURS",
        help="keep what was written, or was the newest version, within this time (default: 168); "
        "give it more than your longest run takes",
    )
    vacuum.add_argument(
        "--force", action="store_true", help="delete also what models and checkpoints use"
    )
    vacuum.add_argument("--dry-run", action="store_true", help="only say what would be deleted")

    files = _command(parsers, "files", run.files, "list the Parquet files of an examples version")
    files.add_argument("--version", type=int, metavar="N", help="default: the newest")
    files.add_argument("--split", choices=("train", "val", "test"), help="default: all of them")


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
    parser.add_argument("--config", required=True, metavar="FILE", help="the settings, a YAML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a setting; may be repeated",
    )
    _add_talk(parser)
    return parser


def _add_talk(parser: argparse.ArgumentParser) -> None:
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("--quiet", action="store_true", help="print the result alone")
    talk.add_argument("--verbose", action="store_true", help="show also what libraries say")


def _add_model(parser: argparse.ArgumentParser, default: str) -> None:
    text = f"which model; `latest` is the newest (default: {default})"
    parser.add_argument("--model", default=default, metavar="VERSION|ALIAS", help=text)


def _add_dates(parser: argparse.ArgumentParser, text: str, required: bool = True) -> None:
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--date", type=_date, metavar="DATE", help=f"{text}; as YYYY-MM-DD")
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
