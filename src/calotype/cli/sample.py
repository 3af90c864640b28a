"""`calotype sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from calotype import library
from calotype.cli import files, pictures
from calotype.cli.console import shown
from calotype.codec import small_model_of
from calotype.errors import OptionError
from calotype.textbook.model import bundle_of
from calotype.textbook.sample import mosaic_of
from calotype.textbook.sample import sample as draw

MOST = 10_000


def sample(
    model: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A model of small images.")],
    out: Annotated[Path, typer.Option("-o", "--output", help="The picture to write.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=MOST, help="Images.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other images.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Draw latents at random, as often as the model's tables say, and show the images that they stand for."""
    suffix = out.suffix.lower().removeprefix(".")
    if suffix not in pictures.FORMATS:
        raise OptionError(f"--output {out}: choose a name that ends in one of {', '.join(pictures.FORMATS)}")
    job = files.Job(None, out)
    files.check_target(job, overwrite=overwrite)
    images = draw(small_model_of(bundle_of(library.find_any(model))), count, seed)
    mosaic = mosaic_of(images)
    sheet = Image.fromarray(mosaic[:, :, 0] if mosaic.shape[2] == 1 else mosaic)
    files.write(job, pictures.save(sheet, pictures.FORMATS[suffix]))
    typer.echo(f"{shown(out)}: {count} images")
