"""Samples <-> lossless WebP (SPEC.md, section 2.1)."""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile

from calotype.errors import DamagedFile

Samples = NDArray[np.uint8 | np.uint16]

_VP8L = struct.Struct("<4sI4s4sIBI")


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


def _check_form(data: memoryview | bytes, size: tuple[int, int]) -> None:
    """Refuse anything but a plain VP8L of that size, before a decoder allocates for what it declares."""
    if len(data) < _VP8L.size:
        raise DamagedFile(f"lossless samples have {len(data)} bytes: no WebP is so short")
    riff, riff_bytes, webp, vp8l, stream_bytes, signature, form = _VP8L.unpack_from(data)
    declared = (form & 0x3FFF) + 1, (form >> 14 & 0x3FFF) + 1
    whole = riff_bytes == len(data) - 8 and stream_bytes + stream_bytes % 2 == len(data) - 20
    if (riff, webp, vp8l, signature, form >> 28) != (b"RIFF", b"WEBP", b"VP8L", 0x2F, 0) or not whole:
        raise DamagedFile("lossless samples are not one plain lossless WebP")
    if declared != size:
        raise DamagedFile(f"lossless samples are {declared[0]}x{declared[1]}, not {size[0]}x{size[1]}")


def unpack(data: memoryview | bytes, height: int, width: int, channels: int, depth: int) -> Samples:
    """Samples (h, w, c) from what `pack` made.

    Raises:
        DamagedFile: If it is no lossless WebP of just that size.
    """
    size = (width, height * _panel_count(channels, depth))
    _check_form(data, size)
    try:
        with WebPImageFile(io.BytesIO(data)) as image:  # Image.open would apply Pillow's limit of pixels to the stack
            stacked = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DamagedFile(f"lossless samples are not WebP: {error}") from error
    panels = stacked.reshape(-1, height, width, 3)
    if depth == 16:
        panels = panels[0::2].astype(np.uint16) << 8 | panels[1::2]
    return np.concatenate(list(panels), axis=2)[:, :, :channels]
