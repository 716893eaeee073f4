"""What is done with registered models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from jobs.commands.options import command, model_option
from jobs.commands.session import new_run, registry_of

if TYPE_CHECKING:
    from jobs.settings.settings import Settings


@command("make the previous champion the champion again")
@click.option("--to", metavar="VERSION", help="Default: the champion before this one.")
def rollback(settings: Settings, to: str | None) -> str:
    from jobs.registry.listing import roll_back

    with new_run(settings, "rollback") as run:
        registry = registry_of(settings)
        before = registry.champion()
        text = roll_back(registry, run.id, to)
        if (now := registry.champion()) is not None:
            run.promoted(now.version, before.version if before else "")
    return text


@command("list the registered models, and which is champion")
def models(settings: Settings) -> str:
    from jobs.registry.listing import models_table

    return models_table(registry_of(settings))


@command("answer requests with the champion, until SIGTERM")
@click.option(
    "--replicas",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes on the same ports (default: serve.replicas).",
)
def serve(settings: Settings, replicas: int | None) -> str:
    from jobs.serve.job import run

    if replicas is not None:
        changed = settings.serve.model_copy(update={"replicas": replicas})
        settings = settings.model_copy(update={"serve": changed})
    restarts = run(settings)
    return f"serve: ended; replicas were started again {restarts} times"


@command("write a model as ONNX or TorchScript")
@model_option("champion")
@click.option(
    "--format",
    "kind",
    type=click.Choice(("onnx", "torchscript")),
    default="onnx",
    help="Default: onnx.",
)
@click.option(
    "--to",
    required=True,
    metavar="FOLDER",
    type=click.Path(readable=False),
    help="Folder to create.",
)
def export(settings: Settings, model: str, kind: Literal["onnx", "torchscript"], to: str) -> str:
    from jobs.evaluate.export.export import export_version

    registry = registry_of(settings)
    version = registry.resolve(model)
    export_version(registry.lake, version, settings.dataset(), kind, to)
    return f"export: model version {version.version} as {kind} in {to}"
