"""Files of pictures as samples to learn from, all of one form."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from calotype import bands, pixels
from calotype.errors import InputError
from calotype.pixels import Picture, Samples

FAILURES = (
    UnidentifiedImageError,
    OSError,
    Image.DecompressionBombError,
    EOFError,
    IndexError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    InputError,
)
"""What files that are no pictures raise."""


@dataclass(frozen=True)
class Form:
    """What all pictures of a run have in common.

    Attributes:
        channels: 1 to 16.
        depth: Bits of a sample, 8 or 16.
    """

    channels: int = 3
    depth: int = 8

    @property
    def peak(self) -> int:
        """The largest sample."""
        return (1 << self.depth) - 1


def size_px(path: Path) -> tuple[int, int] | str:
    """Height and width, or why a file is no picture; decodes nothing."""
    try:
        if bands.is_bands(path):
            return bands.size_px(path)
        with Image.open(path) as image:
            return image.height, image.width
    except FAILURES as error:
        return str(error)


def raw(path: Path) -> Samples:
    """The samples (h, w, c) of a file as they are; alpha is left out.

    Raises:
        Exception: One of FAILURES, if it is no picture.
    """
    with path.open("rb") as stream:
        samples = bands.read(stream)
        if samples is None:
            with Image.open(stream) as image:
                samples = _still(image)
    return samples


def _still(image: Image.Image) -> Samples:
    try:
        return pixels.from_image(image, strip=True).samples
    except RuntimeError as error:  # of AVIF's decoder
        raise InputError(f"the picture cannot be read: {error}") from error


def read(path: Path, form: Form) -> Tensor:
    """A picture (h, w, c), uint8 or uint16, in a form.

    Raises:
        Exception: One of FAILURES, if it is no picture or has other channels.
    """
    samples = raw(path)
    if form.channels == 1:
        samples = pixels.as_grey(Picture(samples, None, {})).samples
    if form.channels == 3 and samples.shape[2] == 1:
        samples = samples.repeat(3, axis=2)
    if samples.shape[2] != form.channels:
        raise InputError(f"{samples.shape[2]} channels, where the others have {form.channels}")
    return torch.from_numpy(_at_depth(samples, form.depth))


def _at_depth(samples: Samples, depth: int) -> Samples:
    if 8 * samples.itemsize == depth:
        return samples.copy()
    if depth == 16:
        return samples.astype(np.uint16) * np.uint16(257)
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
