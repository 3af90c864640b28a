"""Tiles of the latents, and windows in which large pictures are transformed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """The row after the last."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """The column after the last."""
        return self.left + self.width

    def common(self, other: Box) -> Box:
        """What is inside both; its sides are 0 where that is nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Box(top, left, max(0, bottom - top), max(0, right - left))

    def within(self, outer: Box) -> Box:
        """The same rectangle, measured from the corner of another."""
        return Box(self.top - outer.top, self.left - outer.left, self.height, self.width)

    def grown(self, margin_px: int, multiple: int) -> Box:
        """With a margin around it, and as much more as makes its sides stand at multiples."""
        top, left = (max(0, side - margin_px) // multiple * multiple for side in (self.top, self.left))
        bottom, right = (padded(side + margin_px, multiple) for side in (self.bottom, self.right))
        return Box(top, left, bottom - top, right - left)

    def slices(self, scale: int = 1) -> tuple[slice, slice]:
        """Rows and columns at 1/scale; sides that scale does not divide are rounded up."""
        rows = slice(self.top // scale, self.top // scale + -(-self.height // scale))
        return rows, slice(self.left // scale, self.left // scale + -(-self.width // scale))


@dataclass(frozen=True)
class Window:
    """A tile's part of a picture, with what surrounds it as far as it matters.

    Attributes:
        x: The pixels (c, h, w), of a grey picture in one channel, without padding.
        y: Their latent (m, h/16, w/16), with padding.
        inner: Where the tile lies in y.
    """

    x: Floats
    y: Floats
    inner: tuple[slice, slice]


def boxes(area: Box, side_px: int) -> Iterator[Box]:
    """Squares that an area falls into, cut at its right and bottom, in raster order."""
    for top in range(area.top, area.bottom, side_px):
        for left in range(area.left, area.right, side_px):
            yield Box(top, left, min(side_px, area.bottom - top), min(side_px, area.right - left))


def padded(size: int, multiple: int = 64) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple
