"""`calotype models` and its commands: list, show, install, remove, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import calotype
from calotype import library
from calotype.bundle import SUFFIX, Bundle
from calotype.cli import files
from calotype.cli.console import print_table, printable, say, shown

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Its name, its id, or a model file.")]

models = typer.Typer(
    name="models", add_completion=False, help="List the installed models, or install, show, remove and export one."
)


@models.callback(invoke_without_command=True)
def _models(context: typer.Context, as_json: Json = False) -> None:
    if context.invoked_subcommand is None:
        list_models(as_json)


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """List the installed models."""
    rows = [
        {
            "name": bundle.name,
            "version": bundle.version,
            "status": bundle.status,
            "id": bundle.id.hex(),
            "size_bytes": bundle.size_bytes,
            "path": str(bundle.path),
        }
        for bundle in calotype.models()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        cells = [[f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()] for row in rows]
        print_table(cells, header=[*rows[0]])
    else:
        say("no models are installed")


@models.command()
def show(model: Model, as_json: Json = False) -> None:
    """Show what a model says of itself; --json prints its whole card."""
    found = library.find_any(model)
    if as_json:
        typer.echo(json.dumps(found.card, indent=2))
        return
    facts = {"id": found.id.hex(), "kind": found.kind, "status": found.status, "bytes": f"{found.size_bytes:,}"}
    if isinstance(found, Bundle):
        facts["heads"] = ", ".join(head.name for head in found.manifest.heads)
    for key in ("description", "licence"):
        if key in found.card:
            facts[key] = str(found.card[key])
    typer.echo(printable(f"{found.name} {found.version}"))
    print_table([*facts.items()])
    curve = found.card.get("curve", [])
    if isinstance(found, Bundle) and curve:
        typer.echo("")
        print_table([[str(value) for value in point.values()] for point in curve], header=[*curve[0]])


@models.command()
def install(
    paths: Annotated[list[Path], typer.Argument(metavar=f"NAME{SUFFIX}...", help="Model files.")],
) -> None:
    """Install models, so that files made with them decode and `-m NAME` finds them."""
    for path in paths:
        typer.echo(f"{shown(path)} -> {shown(library.install(path))}")


@models.command()
def remove(model: Annotated[str, typer.Argument(metavar="MODEL", help="Its name or id.")]) -> None:
    """Remove a model that was installed; files made with it no longer decode here."""
    typer.echo(f"removed {shown(library.remove(model))}")


@models.command()
def export(
    model: Model,
    output: Annotated[Path, typer.Argument(metavar=f"OUT{SUFFIX}", help="The file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Write a model as a file, to give it to others."""
    job = files.Job(None, output)
    files.check_target(job, overwrite=overwrite)
    files.write(job, library.find_any(model).serialise())
