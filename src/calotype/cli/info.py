"""`calotype info`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

import calotype
from calotype import Info
from calotype.cli import files
from calotype.cli.console import FAILURES, complain, print_table, printable, shown


def info(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help=".calo files, or - for stdin.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a list with an object for each file.")] = False,
) -> None:
    """Say what .calo files hold, without decoding them."""
    rows: list[dict[str, Any]] = []
    for text in inputs:
        source = None if text == files.STANDARD else Path(text)
        try:
            facts = calotype.info(files.read_calo(source))
        except BrokenPipeError:
            raise
        except FAILURES as error:
            complain(shown(source), error)
            continue
        rows.append({"file": text} | dataclasses.asdict(facts))
        if not as_json:
            typer.echo(printable(text))
            print_table(_readable(facts))
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    if len(rows) < len(inputs):
        raise typer.Exit(1)


def _readable(facts: Info) -> list[tuple[str, str]]:
    colour = {1: "grey", 3: "RGB"}.get(facts.channels, f"{facts.channels} channels")
    rows = [
        ("picture", f"{facts.width} x {facts.height}, {colour}{' + alpha' * facts.has_alpha}, {facts.depth} bits"),
        ("size", f"{facts.file_bytes:,} bytes, {facts.bpp:.3f} bpp"),
        ("tiles", f"{facts.tiles} of {facts.tile_px} px"),
    ]
    if facts.lossless:
        rows.append(("coding", "lossless"))
    else:
        model = facts.model_name or "not installed"
        rows += [("coding", f"level {facts.level}, head {facts.head}"), ("model", f"{model} ({facts.model_id})")]
    if facts.metadata:
        rows.append(("metadata", ", ".join(f"{name} {size:,} bytes" for name, size in facts.metadata.items())))
    return [(f"  {name}", value) for name, value in rows]
