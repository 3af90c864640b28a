"""`calotype models`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

import calotype
from calotype.cli.console import print_table, say


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a list with an object a model.")] = False,
) -> None:
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
