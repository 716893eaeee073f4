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

from pyspark.sql import SparkSession

from jobs.errors import ConfigError, MillstreamError
from jobs.ledger import new_run_id
from jobs.settings import Settings, load_settings

_EXIT_CODES = __doc__.split("\n\n")[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("millstream").setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    try:
        settings = load_settings(arguments.config, arguments.set)
        command: Callable[[argparse.Namespace, Settings], str] = arguments.command
        print(command(arguments, settings), flush=True)
    except MillstreamError as error:
        print(f"millstream: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("millstream: interrupted; nothing half-written is visible", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        print(
            "millstream: this was not expected; what was committed before stands, nothing "
            "half-written is visible. Please report the lines above.",
            file=sys.stderr,
        )
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="millstream",
        description="Raw files become shards, a trained model and predictions.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    etl = _command(commands, "etl", _etl, "turn raw files of some dates into examples")
    _add_dates(etl, "the dates to (re)make")

    train = _command(commands, "train", _train, "train a model on the examples and register it")
    train.add_argument("--workers", type=int, metavar="N", help="Horovod ranks (train.workers)")
    train.add_argument("--until", type=_date, metavar="DATE", help="train on dates up to this one")

    evaluate = _command(commands, "evaluate", _evaluate, "measure a registered model")
    evaluate.add_argument(
        "--model", default="latest", metavar="VERSION|ALIAS", help="default: the newest version"
    )

    score = _command(commands, "score", _score, "write predictions for the raw rows of some dates")
    _add_dates(score, "the dates to score")
    score.add_argument(
        "--model", default="champion", metavar="VERSION|ALIAS", help="default: champion"
    )

    nightly = _command(
        commands, "nightly", _nightly, "etl, train, evaluate, gate and score for one date"
    )
    nightly.add_argument("--date", type=_date, required=True, metavar="DATE", help="the night")

    files = _command(commands, "files", _files, "list the Parquet files of an examples version")
    files.add_argument("--version", type=int, metavar="N", help="default: the newest")
    files.add_argument("--split", choices=("train", "val", "test"), help="default: all")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace, Settings], str],
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=_EXIT_CODES
    )
    parser.set_defaults(command=run)
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


def _add_dates(parser: argparse.ArgumentParser, text: str) -> None:
    group = parser.add_mutually_exclusive_group(required=True)
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


def _dates(arguments: argparse.Namespace) -> list[str]:
    return [arguments.date] if arguments.date else list(arguments.dates)


def _spark(settings: Settings, stage: str) -> SparkSession:
    from jobs.spark import session

    properties = settings.spark.properties_file
    return session(f"millstream {stage}", settings.path(properties) if properties else None)


# The jobs are imported by their commands: torch and MLflow take seconds that others need not wait.


def _etl(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.etl import job
    from jobs.etl.tally import summary

    spark = _spark(settings, "etl")
    result = job.run(settings, spark, run_id=new_run_id("etl"), dates=_dates(arguments))
    return (
        f"etl: {summary(result.tallies.values())}; written to {result.url} "
        f"version {result.version} in {result.seconds:.0f} s"
    )


def _train(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.train import job

    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers}", "at least 1")
    result = job.run(
        settings,
        _spark(settings, "train"),
        run_id=new_run_id("train"),
        workers=arguments.workers,
        last_ds=arguments.until,
    )
    return f"train: {result.summary()}"


def _evaluate(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.evaluate import job

    spark = _spark(settings, "evaluate")
    result = job.run(settings, spark, run_id=new_run_id("evaluate"), model=arguments.model)
    return f"evaluate: {result.summary()}"


def _score(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.evaluate import score

    result = score.run(
        settings,
        _spark(settings, "score"),
        run_id=new_run_id("score"),
        dates=_dates(arguments),
        model=arguments.model,
    )
    return f"score: {result.summary()}"


def _nightly(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs import nightly

    return nightly.run(settings, _spark(settings, "nightly"), ds=arguments.date).summary()


def _files(arguments: argparse.Namespace, settings: Settings) -> str:
    from jobs.etl.job import lake_of
    from jobs.lake import Examples

    examples = Examples.open(lake_of(settings).table("examples").url, arguments.version)
    shards = examples.shards(arguments.split)
    return "\n".join(f"{examples.url}/{shard.path}" for shard in shards)


if __name__ == "__main__":
    sys.exit(main())
