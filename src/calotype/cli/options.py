"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calotype.cli.pictures import FORMATS, NPY
from calotype.codec import DEFAULT_QUALITY

Archive = Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A .caloset file.")]
Format = Annotated[str | None, typer.Option("--format", help=f"{', '.join((NPY, *FORMATS))}; png by default.")]
Jobs = Annotated[int, typer.Option("-j", "--jobs", min=1, help="Files to work on at a time.")]
Lossless = Annotated[bool, typer.Option("--lossless", help="Keep every bit of every pixel.")]
ModelToDecode = Annotated[
    str | None, typer.Option("-m", "--model", metavar="NAME|PATH", help="Use this model, installed or not.")
]
ModelToEncode = Annotated[
    str | None, typer.Option("-m", "--model", metavar="NAME|PATH", help="An installed model, or a model file.")
]
Output = Annotated[
    str | None, typer.Option("-o", "--output", help="A file; a folder for several inputs; - for stdout.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Quality = Annotated[
    float | None,
    typer.Option("-q", "--quality", min=0, max=100, help=f"Higher is better; {DEFAULT_QUALITY:g} by default."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")]
Recursive = Annotated[bool, typer.Option("-r", "--recursive", help="Walk through folders; mirror them.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Leave out what is done: whole outputs that are no older than their input.")
]
