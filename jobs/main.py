"""The commands: `millstream COMMAND`, and the spark-submit files, which take the same arguments."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

import click
from click.shell_completion import shell_complete

from jobs.base.errors import ConfigError, MillstreamError
from jobs.base.output import complain, flush, open_outputs, say
from jobs.base.quiet import start_log
from jobs.base.termination import Terminated, interruption, terminable
from jobs.commands import draft, line, models, tables
from jobs.commands.options import EXIT_CODES, Call, CommandGroup

_NAME, _COMPLETE = "millstream", "_MILLSTREAM_COMPLETE"

millstream = CommandGroup(
    _NAME,
    help="Validates raw files, trains a model on them and writes predictions, by date.",
    epilog=EXIT_CODES,
    subcommand_metavar="COMMAND ...",
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    draft.init,
    *(
        line.etl,
        line.refit,
        line.train,
        line.tune,
        line.study,
        line.evaluate,
        line.score,
        line.nightly,
        line.status,
    ),
    *(models.rollback, models.models, models.export, models.serve),
    *(tables.compact, tables.erase, tables.vacuum, tables.files, tables.report),
):
    millstream.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    if (instruction := os.environ.get(_COMPLETE)) is not None:
        return shell_complete(millstream, {}, _NAME, _COMPLETE, instruction)
    open_outputs()
    try:
        call = _parsed(sys.argv[1:] if argv is None else argv)
    except click.exceptions.Exit as done:
        return done.exit_code
    except ConfigError as error:
        complain(f"millstream: {error}")
        return error.exit_code
    except OSError as error:
        # Of `--help`, whose reader has gone, or whose disk is full.
        return 0 if isinstance(error, BrokenPipeError) else _unexpected(error)
    finally:
        with suppress(OSError):
            flush(sys.stdout)
    start_log(call.verbose, logging.WARNING if call.quiet else logging.INFO)
    return _ran(call)


def _parsed(argv: Sequence[str]) -> Call:
    """The command of a command line.

    Raises:
        ConfigError: the command line is wrong.
        click.exceptions.Exit: help was asked for, and printed.
    """
    try:
        with millstream.make_context(_NAME, list(argv)) as context:
            call: Call = millstream.invoke(context)
            return call
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else _NAME
        raise ConfigError(error.format_message(), remedy=f"see `{path} --help`") from error


def _ran(call: Call) -> int:
    """Runs a command and says what came of it; returns its exit code."""
    try:
        with terminable():
            say(call.run(), sys.stdout)
    except MillstreamError as error:
        complain(f"millstream: {error}")
        return error.exit_code
    except (Exception, KeyboardInterrupt) as error:
        interrupt = interruption(error)
        if interrupt is None:
            return _unexpected(error)
        complain("millstream: interrupted; nothing half-written is visible")
        return interrupt.exit_code if isinstance(interrupt, Terminated) else 130
    return 0


def _unexpected(error: BaseException) -> int:
    # Only here: it loads fsspec, which help and completion need not wait for.
    from jobs.stores.errors import known_error

    if (known := known_error(error)) is not None:
        complain(f"millstream: {known}")
        return known.exit_code
    complain("".join(traceback.format_exception(error)))
    complain(
        "millstream: this was not expected; what was committed before stands, nothing "
        "half-written is visible. Please report the lines above."
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
