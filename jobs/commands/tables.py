"""What is done with tables and their files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobs.base.errors import ConfigError
from jobs.commands.options import Values, command, dates_options
from jobs.commands.session import chosen, spark_of

if TYPE_CHECKING:
    from jobs.settings.settings import Settings


@command("merge small shards into larger ones")
@dates_options("Date to compact (default: all)", required=False)
def compact(settings: Settings, date: str | None, dates: list[str] | None) -> str:
    from jobs.lake.ledger import new_run_id
    from jobs.operations import compact

    run_id, spark = new_run_id("compact"), spark_of(settings, "compact")
    result = compact.run(settings, spark, run_id=run_id, dates=chosen(date, dates) or None)
    return f"compact: {result.summary()}"


@command("delete rows of some entities from all tables")
@click.option(
    "--key",
    "key",
    type=Values(),
    multiple=True,
    metavar="COLUMN=VALUE ...",
    help="Rows to delete: a raw column and its value; of several after one --key all must match; "
    "may be repeated.",
)
@click.option(
    "--keys",
    "file",
    metavar="FILE",
    type=click.Path(readable=False),
    help="A CSV file of such values, its header names the columns.",
)
def erase(settings: Settings, key: tuple[tuple[str, ...], ...], file: str | None) -> str:
    from jobs.lake.ledger import new_run_id
    from jobs.operations import erase
    from jobs.operations.keys import parse_keys

    keys = parse_keys(settings.dataset(), key, file)
    spark = spark_of(settings, "erase")
    return f"erase: {erase.run(settings, spark, run_id=new_run_id('erase'), keys=keys).summary()}"


@command("delete expired dates and unused files")
@click.option(
    "--older-than",
    "hours",
    type=float,
    default=168.0,
    metavar="HOURS",
    help="Keep what was written, or was the newest version, within this time (default: 168); give "
    "it more than your longest run takes.",
)
@click.option("--force", is_flag=True, help="Delete also what models, checkpoints and studies use.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
def vacuum(settings: Settings, hours: float, force: bool, dry_run: bool) -> str:
    from jobs.lake.ledger import new_run_id
    from jobs.operations import vacuum

    if not hours >= 0:
        raise ConfigError(f"--older-than {hours:g}", "hours, at least 0")
    run_id = new_run_id("vacuum")
    result = vacuum.run(
        settings, run_id=run_id, older_than_hours=hours, force=force, dry_run=dry_run
    )
    return f"vacuum: {result.summary()}"


@command("compare what was served with what the champion was trained on, and with batch scores")
@dates_options("Date on which rows were served (default: all)", required=False)
@click.option("--served", is_flag=True, help="Report on the table `served`.")
def report(settings: Settings, date: str | None, dates: list[str] | None, served: bool) -> str:
    from jobs.operations.served import report_served

    if not served:
        raise ConfigError("nothing to report on", "--served")
    return report_served(settings, spark_of(settings, "report"), chosen(date, dates)).text()


@command("list the Parquet files of an examples version")
@click.option("--version", type=int, metavar="N", help="Default: the newest.")
@click.option("--split", type=click.Choice(("train", "val", "test")), help="Default: all of them.")
def files(settings: Settings, version: int | None, split: str | None) -> str:
    from jobs.etl.job import lake_of
    from jobs.lake.examples import Examples

    if version is not None and not 0 <= version < 2**63:
        raise ConfigError(f"--version {version}", "at least 0, as Delta numbers versions")
    examples = Examples.open(lake_of(settings).table("examples").url, version)
    return "\n".join(f"{examples.url}/{shard.path}" for shard in examples.shards(split))
