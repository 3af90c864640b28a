"""Tiles of the latents, and windows in which large pictures are transformed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

    def slices(self, scale: int = 1) -> tuple[slice, slice]:
        """Rows and columns at 1/scale; sides that scale does not divide are rounded up."""
        rows = slice(self.top // scale, self.top // scale + -(-self.height // scale))
        return rows, slice(self.left // scale, self.left // scale + -(-self.width // scale))


@dataclass(frozen=True)
class Window:
    """A tile's part of a picture, with what surrounds it as far as it matters.

    Attributes:
        x: The pixels (c, h, w), without padding.
        y: Their latent (m, h/16, w/16), with padding.
        inner: Where the tile lies in y.
    """

    x: Floats
    y: Floats
    inner: tuple[slice, slice]


def window_around(x: Floats, y: Floats, size_px: tuple[int, int], tile: Box, halo_px: int) -> Window:
    """A tile with `halo_px` pixels, a multiple of 16, around it, of a padded picture x of `size_px` without padding."""
    top, left = max(0, tile.top - halo_px), max(0, tile.left - halo_px)
    bottom = min(x.shape[1], tile.top + padded(tile.height) + halo_px)
    right = min(x.shape[2], tile.left + padded(tile.width) + halo_px)
    seen = Box(top, left, bottom - top, right - left)
    inner = Box(tile.top - top, tile.left - left, padded(tile.height), padded(tile.width))
    pixels = x[:, top : min(bottom, size_px[0]), left : min(right, size_px[1])]
    return Window(np.ascontiguousarray(pixels), y[(slice(None), *seen.slices(16))], inner.slices(16))


def boxes(height: int, width: int, tile_px: int) -> Iterator[Box]:
    """The tiles of a picture in raster order."""
    for top in range(0, height, tile_px):
        for left in range(0, width, tile_px):
            yield Box(top, left, min(tile_px, height - top), min(tile_px, width - left))


def padded(size: int, multiple: int = 64) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def run_in_windows(
    network: Callable[[Floats], Floats], x: Floats, scale: tuple[int, int], window_px: int, halo_px: int
) -> Floats:
    """Run a convolutional network over a large array in windows that overlap by more than its receptive field.

    Args:
        network: From (c, h, w) to (c', h', w').
        x: The whole input (c, h, w).
        scale: Pixels of the picture to one element of the input, and of the output.
        window_px: Side of what a window contributes, in pixels of the picture.
        halo_px: What a window sees beyond that on each side.
    """
    before, after = scale
    height, width = x.shape[1] * before, x.shape[2] * before
    if max(height, width) <= window_px + 2 * halo_px:
        return network(x)
    out: Floats | None = None
    for box in boxes(height, width, window_px):
        top, left = max(0, box.top - halo_px), max(0, box.left - halo_px)
        bottom, right = (
            min(height, box.top + box.height + halo_px),
            min(width, box.left + box.width + halo_px),
        )
        seen = Box(top, left, bottom - top, right - left)
        part = network(np.ascontiguousarray(x[(slice(None), *seen.slices(before))]))
        if out is None:
            out = np.empty((part.shape[0], height // after, width // after), np.float32)
        inner = Box(box.top - top, box.left - left, box.height, box.width)
        out[(slice(None), *box.slices(after))] = part[(slice(None), *inner.slices(after))]
    assert out is not None
    return out
