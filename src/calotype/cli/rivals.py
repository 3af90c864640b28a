"""What AVIF and WebP make of the validation pictures of a run, to say how it compares while it learns."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from PIL import Image

from calotype.bench.codecs import AVIF_PSNR, WEBP, Codec
from calotype.bench.metrics import psnr_db
from calotype.pixels import EXACT_DB, Samples

QUALITIES = {AVIF_PSNR: (10, 35, 60, 80, 92), WEBP: (5, 40, 75, 92, 98)}
FILE_BYTES = 46
"""Of a file, beside its tile's words: header, chunk and the coder's state."""

Rate = tuple[float, float]
"""Bits per pixel and PSNR, means over pictures."""


def measured(pictures: Sequence[Samples]) -> dict[str, list[Rate]]:
    """Rates of each rival over a few qualities; none for pictures that these codecs do not hold."""
    if any(picture.dtype != np.uint8 or picture.shape[2] not in (1, 3) for picture in pictures):
        return {}
    images = [Image.fromarray(p if p.shape[2] == 3 else p.repeat(3, axis=2)) for p in pictures]
    return {codec.name: [_rate(codec, q, images) for q in sweep] for codec, sweep in QUALITIES.items()}


def _rate(codec: Codec, quality: float, images: Sequence[Image.Image]) -> Rate:
    files = [codec.encode(image, quality) for image in images]
    bpp = fmean(8 * len(file) / (i.width * i.height) for file, i in zip(files, images, strict=True))
    db = [psnr_db(np.asarray(i), np.asarray(codec.decode(file))) for file, i in zip(files, images, strict=True)]
    return bpp, fmean(min(value, EXACT_DB) for value in db)


def against(rivals: dict[str, list[Rate]], ours: Sequence[Rate]) -> str:
    """How many bits more or fewer ours takes than each rival at equal PSNR, in words."""
    from calotype.bench.bd_rate import Curve, bd_rate

    def curve(rates: Sequence[Rate]) -> Curve:
        bpp, db = zip(*sorted(rates, key=lambda rate: rate[1]), strict=True)
        return Curve("", bpp, db)

    said: list[str] = []
    for name, rates in rivals.items():
        try:
            said.append(f"{bd_rate(curve(rates), curve(ours)):+.0f}% bytes against {name}")
        except ValueError:  # noqa: PERF203 (no PSNR in common)
            said.append(f"no PSNR in common with {name}")
    return ", ".join(said)
