"""`calotype encode`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, BinaryIO

import numpy as np
import typer

import calotype
from calotype import codec, library
from calotype.bundle import Bundle, ModelFile
from calotype.cli import batch, files, options, pictures
from calotype.cli.console import note_preview
from calotype.codec import DEFAULT_EFFORT, MAX_PIXELS
from calotype.errors import CalotypeError
from calotype.pixels import STRIP_ROWS, Picture, as_grey, from_array
from calotype.rate import Rate
from calotype.textbook.model import TextbookBundle

_UNITS = {"": 1, "k": 1000, "m": 1_000_000}


def _parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmKM]?)", text)
    if match is None or (size := round(float(match[1]) * _UNITS[match[2].lower()])) < 1:
        raise typer.BadParameter(f"{text!r} is not a number of bytes such as 48213, 20k or 1.5M")
    return size


def _refuse_together(**rivals: object) -> None:
    given = [f"--{name}" for name, value in rivals.items() if value is not None and value is not False]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other")


def encode(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Pictures; folders with -r; - for stdin.")],
    output: options.Output = None,
    quality: options.Quality = None,
    bpp: Annotated[float | None, typer.Option(min=0, help="Bits per pixel to stay under.")] = None,
    size: Annotated[
        int | None, typer.Option(parser=_parse_size, metavar="BYTES", help="File size to stay under, as 20k or 1.5M.")
    ] = None,
    psnr: Annotated[float | None, typer.Option(min=0, help="Fidelity to reach, in dB.")] = None,
    lossless: options.Lossless = False,
    effort: Annotated[
        int, typer.Option("-e", "--effort", min=1, max=9, help="More is slower, smaller; 7 to 9 need the extra learn.")
    ] = DEFAULT_EFFORT,
    head: Annotated[
        str | None, typer.Option(help="What to make it for: psnr (the default) or visual, how it looks.")
    ] = None,
    model: options.ModelToEncode = None,
    recursive: options.Recursive = False,
    jobs: options.Jobs = 1,
    max_pixels: Annotated[int, typer.Option(min=0, help="Refuse larger pictures; 0 is no limit.")] = MAX_PIXELS,
    verify: Annotated[bool, typer.Option("--verify", help="Decode each file again; say its PSNR.")] = False,
    strip: Annotated[bool, typer.Option("--strip", help="Leave EXIF, ICC and XMP out.")] = False,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Encode pictures as .calo files.

    `calotype encode photo.png` writes photo.calo; `calotype encode photo.png small.calo` names the output. Pictures of
    several bands are .npy files (h, w, c) and, with --model or --lossless, TIFFs of a page for each band.
    """
    _refuse_together(quality=quality, bpp=bpp, size=size, psnr=psnr, lossless=lossless)
    _refuse_together(model=model, lossless=lossless)
    _refuse_together(head=head, lossless=lossless)
    if output is None and len(inputs) == 2 and inputs[1].lower().endswith(".calo"):
        output = inputs.pop()
    plan = files.plan(inputs, output, ".calo", recursive=recursive, wanted=pictures.holds_picture)
    bundle = None if lossless else library.find_any(model)
    if bundle is not None and bundle.status == "preview" and not quiet:
        note_preview(bundle.name)
    rate = Rate.of({"quality": quality, "bpp": bpp, "size": size, "psnr": psnr}, lossless=lossless)
    pages = lossless or model is not None  # else those of a document would become red, green and blue
    reader = partial(_read, bundle=bundle, pages=pages, strip=strip)
    encoder = partial(codec.encode_picture, model=bundle, rate=rate, effort=effort, head=head)
    verifier = partial(_verify, model=bundle) if verify else None
    work = partial(_encode, reader=reader, encoder=encoder, verifier=verifier, overwrite=overwrite)
    is_done = partial(files.is_done, is_whole=_is_whole) if resume else None
    with pictures.pixel_limit(max_pixels or None):
        batch.run(plan, work, threads=jobs, quiet=quiet, is_done=is_done)


def _is_whole(path: Path) -> bool:
    """Whether a file is a `.calo` of which every checksum holds."""
    try:
        calotype.info(path.read_bytes())
    except CalotypeError:
        return False
    return True


def _read(stream: BinaryIO, *, bundle: ModelFile | None, pages: bool, strip: bool) -> tuple[Picture, bool]:
    """A file's picture, and whether samples were cut. Pillow's copy of it ends here: it is larger than ours."""
    image, cut = pictures.read_for(stream, bundle, pages=pages)
    return codec.picture_of(image, bundle, strip=strip), cut


def _encode(
    job: files.Job,
    *,
    reader: Callable[[BinaryIO], tuple[Picture, bool]],
    encoder: Callable[[Picture], bytes],
    verifier: Callable[[bytes, Picture], str] | None,
    overwrite: bool,
) -> batch.Made:
    files.check_target(job, overwrite=overwrite)
    with files.opened(job.source) as stream:
        picture, cut = reader(stream)
        start = perf_counter()
        data = encoder(picture)
        seconds = perf_counter() - start
        notes = [verifier(data, picture)] if verifier is not None else []
        if len(data) > stream.seek(0, os.SEEK_END):
            notes.append("larger than the input")
    if cut:
        notes.append(pictures.CUT_NOTE)
    files.write(job, data)
    return batch.Made(len(data), picture.samples[:, :, 0].size, seconds, tuple(notes))


def _verify(data: bytes, wanted: Picture, *, model: ModelFile | None) -> str:
    """Decode an encoded picture, with a model or losslessly, and say how near it comes.

    Raises:
        CalotypeError: If it is not what was encoded.
    """
    channels = model.manifest.channels if isinstance(model, Bundle) else None
    if channels == 1 or (isinstance(model, TextbookBundle) and model.image[2] == 1):
        wanted = as_grey(wanted)
    got = from_array(calotype.decode_array(data, max_pixels=None, model=model), channels)
    a, b = wanted.samples, got.samples
    same_form = a.shape == b.shape and a.dtype == b.dtype
    same_alpha = np.array_equal(np.asarray(wanted.alpha), np.asarray(got.alpha))
    if not (same_form and same_alpha) or (model is None and not np.array_equal(a, b)):
        raise CalotypeError("does not decode to what was encoded: nothing is written")
    strips = (slice(top, top + STRIP_ROWS) for top in range(0, len(a), STRIP_ROWS))
    error = sum(float(np.square(np.subtract(a[s], b[s], dtype=np.float32)).sum(dtype=np.float64)) for s in strips)
    return "exact" if error == 0 else f"{10 * math.log10(np.iinfo(a.dtype).max ** 2 * a.size / error):.2f} dB"
