"""`calotype ls`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from calotype.archive import Archive, Kind
from calotype.cli import options
from calotype.cli.console import print_table


def ls(
    archive: options.Archive,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list with an object for each row.")] = False,
) -> None:
    """List what an archive holds, without decoding it."""
    with Archive(archive) as source:
        rows = _rows(source)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    header = ("name", "kind", "images", "bytes")
    print_table([tuple(f"{row[key]:,}" if key == "bytes" else str(row[key]) for key in header) for row in rows], header)


def _rows(source: Archive) -> list[dict[str, Any]]:
    """A row for each picture and model, and one for each chunk of small images, with its first and last name."""
    named: dict[int, list[str]] = {}
    for entry in source.entries:
        named.setdefault(entry.item.ordinal, []).append(entry.name)
    rows: list[dict[str, Any]] = []
    for item in source.items:
        names = named.get(item.ordinal, [])
        label = f"{names[0]} .. {names[-1]}" if len(names) > 1 else "".join(names)
        kind = Kind(item.kind).name.lower().replace("_", "-")
        rows.append({"name": label, "kind": kind, "images": item.images, "bytes": item.data_bytes, "names": names})
    return rows
