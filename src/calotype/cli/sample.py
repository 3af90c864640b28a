"""`calotype sample`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from calotype import library
from calotype.cli import files, pictures
from calotype.cli.console import shown
from calotype.codec import small_model_of
from calotype.errors import OptionError
from calotype.textbook.model import Images, bundle_of
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
    files.write(job, pictures.save(grid(images), pictures.FORMATS[suffix]))
    typer.echo(f"{shown(out)}: {count} images")


def grid(images: Images) -> Image.Image:
    """Images (n, h, w, c) side by side, in about as many rows as columns, black where there are none left."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[:count] = images
    sheet = sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    whole = sheet.reshape(rows * height, columns * width, channels)
    return Image.fromarray(whole[:, :, 0] if channels == 1 else whole)
