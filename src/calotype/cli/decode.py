"""`calotype decode`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer
from PIL import Image

from calotype import library
from calotype.cli import batch, files, options, pictures
from calotype.cli.pictures import NPY
from calotype.codec import MAX_PIXELS, Region


def _parse_region(text: str) -> Region:
    if re.fullmatch(r"\d+(,\d+){3}", text, re.ASCII) is None:
        raise typer.BadParameter(f"{text!r} is not X,Y,W,H in pixels, such as 1024,512,640,480")
    x, y, width, height = map(int, text.split(","))
    return x, y, width, height


def decode(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help=".calo files; folders with -r; - for stdin.")],
    output: options.Output = None,
    format: options.Format = None,  # noqa: A002
    recursive: options.Recursive = False,
    jobs: options.Jobs = 1,
    region: Annotated[
        str | None,
        typer.Option(metavar="X,Y,W,H", help="Only this rectangle, in pixels; reads no more."),
    ] = None,
    preview: Annotated[
        int | None, typer.Option(metavar="N", help="1/N of the size: 2, 4, ... 64; from 16 on faster, and rougher.")
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=0, help="Refuse larger pictures (or regions); 0 is no limit.")
    ] = MAX_PIXELS,
    head: Annotated[
        str | None, typer.Option(help="Which synthesis to use; by default what the file was made for.")
    ] = None,
    model: options.ModelToDecode = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Decode .calo files to pictures in an ordinary format.

    `calotype decode photo.calo` writes photo.png; `calotype decode photo.calo photo.jpg` names the output.
    """
    if output is None and not recursive and len(inputs) == 2 and not inputs[1].lower().endswith(".calo"):
        output = inputs.pop()
    several = recursive or len(inputs) > 1
    suffix = pictures.suffix_to_write(format, None if several else output, others=[NPY])
    plan = files.plan(inputs, output, f".{suffix}", recursive=recursive, wanted=_is_calo)
    bundle = None if model is None else library.find_any(model)
    view = {"region": None if region is None else _parse_region(region), "preview": preview}
    wish = {**view, "max_pixels": max_pixels or None, "model": bundle, "head": head}
    reader = files.read_calo if region is None else files.map_calo
    work = partial(_decode, reader=reader, wish=wish, suffix=suffix, overwrite=overwrite)
    is_done = partial(files.is_done, is_whole=pictures.is_whole) if resume else None
    with pictures.pixel_limit(None):  # of outputs that are there; that of inputs is the decoder's
        batch.run(plan, work, threads=jobs, quiet=quiet, is_done=is_done)


def _is_calo(path: Path) -> bool:
    return path.suffix.lower() == ".calo"


def _decode(
    job: files.Job,
    *,
    reader: Callable[[Path | None], bytes | memoryview],
    wish: dict[str, Any],
    suffix: str,
    overwrite: bool,
) -> batch.Made:
    data = reader(job.source)
    files.check_target(job, overwrite=overwrite)
    start = perf_counter()
    shown = pictures.develop(data, suffix, **wish)
    seconds = perf_counter() - start
    packed, lost = pictures.serialise(shown, suffix, data)
    files.write(job, packed)
    height, width = (shown.height, shown.width) if isinstance(shown, Image.Image) else shown.shape[:2]
    return batch.Made(len(packed), height * width, seconds, lost)
