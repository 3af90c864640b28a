"""Samples <-> lossless WebP (SPEC.md, section 2.1)."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from calotype.errors import DamagedFile

Samples = NDArray[np.uint8 | np.uint16]

_SIGNATURE = slice(8, 16), b"WEBPVP8L"


def _panel_count(channels: int, depth: int) -> int:
    return -(-channels // 3) * depth // 8


def _panels(samples: Samples) -> list[NDArray[np.uint8]]:
    planes = [samples] if samples.dtype == np.uint8 else [samples >> 8, samples & 255]
    panels: list[NDArray[np.uint8]] = []
    for first in range(0, samples.shape[2], 3):
        picked = [min(first + i, samples.shape[2] - 1) for i in range(3)]
        panels += [plane[:, :, picked].astype(np.uint8) for plane in planes]
    return panels


def pack(samples: Samples, method: int = 4) -> bytes:
    """A lossless WebP of samples (h, w, c), uint8 or uint16. `method` 0-6 trades time for size."""
    out = io.BytesIO()
    stacked = Image.fromarray(np.concatenate(_panels(samples)))
    stacked.save(out, "WEBP", lossless=True, exact=True, method=method, quality=80 if method > 4 else 50)
    return out.getvalue()


def unpack(data: memoryview | bytes, height: int, width: int, channels: int, depth: int) -> Samples:
    """Samples (h, w, c) from what `pack` made.

    Raises:
        DamagedFile: If it is no lossless WebP of just that size.
    """
    place, signature = _SIGNATURE
    size = (width, height * _panel_count(channels, depth))
    try:
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            if bytes(data[place]) != signature or image.size != size or image.mode != "RGB":
                raise DamagedFile(f"lossless samples are {image.mode} {image.size}, not RGB {size}")
            stacked = np.asarray(image)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise DamagedFile(f"lossless samples are not WebP: {error}") from error
    panels = stacked.reshape(-1, height, width, 3)
    if depth == 16:
        panels = panels[0::2].astype(np.uint16) << 8 | panels[1::2]
    return np.concatenate(list(panels), axis=2)[:, :, :channels]
