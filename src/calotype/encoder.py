"""A picture at any level, as the bytes of a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calotype import container, lossless, pixels
from calotype.bundle import Bundle
from calotype.container import Coding, Header
from calotype.decoder import develop
from calotype.errors import InputError
from calotype.lazy import cached_property
from calotype.pixels import Picture, Samples
from calotype.prior import Chosen, words_of
from calotype.runtime import Runtime
from calotype.search import Task, search
from calotype.tiling import boxes, padded
from calotype.wire import pack_varint

TILE_PX = 512
LARGEST_TILE_PX = 1024

FLAT_SHARE = 0.4
"""A picture in which more pixels than this equal their left, or their upper, neighbour is a drawing, not a photo."""
SMALL_PIXELS = 128 * 128
POOR_DB = 3.0
"""Learned coding is poor if it stays this much under what the model reaches on photographs at the same level."""
WORTH_TIMES = 3
QUICK_EFFORT = 2


def _tile_px(height: int, width: int) -> int:
    """512, but a picture that fits into one tile of 1024 gets one."""
    side = padded(max(height, width))
    return side if side <= LARGEST_TILE_PX else TILE_PX


def _alpha_blocks(picture: Picture) -> list[bytes] | None:
    """What stands before the data of each tile: its alpha, with its length."""
    if picture.alpha is None:
        return None
    height, width = picture.alpha.shape[:2]
    blocks = (lossless.pack(picture.alpha[box.slices()]) for box in boxes(height, width, _tile_px(height, width)))
    return [pack_varint(len(block)) + block for block in blocks]


def _pack(picture: Picture, coding: Coding | None, alpha: list[bytes] | None, tiles: list[bytes]) -> bytes:
    height, width = picture.samples.shape[:2]
    tile_px = _tile_px(height, width)
    header = Header(width, height, picture.channels, picture.depth, alpha is not None, tile_px, coding)
    if alpha is not None:
        tiles = [a + t for a, t in zip(alpha, tiles, strict=True)]
    return container.pack(header, picture.metadata, tiles)


def encode_lossless(picture: Picture, effort: int) -> bytes:
    """The file that keeps every sample."""
    height, width = picture.samples.shape[:2]
    method = min(effort, 6)
    grid = boxes(height, width, _tile_px(height, width))
    tiles = [lossless.pack(picture.samples[box.slices()], method) for box in grid]
    return _pack(picture, None, _alpha_blocks(picture), tiles)


@dataclass(frozen=True)
class PictureCoder:
    """A picture ready to be coded at any level, for a head of the model."""

    picture: Picture
    runtime: Runtime
    x: NDArray[np.float32]
    effort: int
    head: int

    @classmethod
    def of(cls, picture: Picture, runtime: Runtime, effort: int, head: int = 0) -> PictureCoder:
        """The picture as the model wants it: its channels, sides that are multiples of 64."""
        channels = runtime.bundle.manifest.channels
        if channels == 1:
            picture = pixels.as_grey(picture)
        if picture.channels != channels and (picture.channels, channels) != (1, 3):
            raise InputError(f"{picture.channels} channels; the model {runtime.bundle.name} codes {channels}")
        x = np.broadcast_to(pixels.to_unit(picture.samples), (channels, *picture.samples.shape[:2]))
        below, right = (padded(side) - side for side in x.shape[1:])
        if head:
            effort = min(effort, QUICK_EFFORT)  # more effort lowers the squared error, which this head is not after
        return cls(picture, runtime, np.pad(x, ((0, 0), (0, below), (0, right)), mode="edge"), effort, head)

    def at_level(self, level: int) -> bytes:
        """The file at a level."""
        tiles = [words_of(self.runtime, chosen) for chosen in self.chosen(level)]
        return _pack(self.picture, Coding(self.runtime.bundle.id, self.head, level), self._alpha_blocks, tiles)

    def chosen(self, level: int) -> Iterator[Chosen]:
        """What is coded of each tile at a level."""
        height, width = self.picture.samples.shape[:2]
        grid = list(boxes(height, width, _tile_px(height, width)))
        y = self.runtime.analyse(self.x, level, self.head)
        return search(Task(self.runtime, self.x, (height, width), grid, level, y), self.effort)

    @cached_property
    def _alpha_blocks(self) -> list[bytes] | None:
        """Made once, for the search for a rate codes many levels."""
        return _alpha_blocks(self.picture)

    @property
    def quick(self) -> PictureCoder:
        """The same without a search for better latents, to find a level with."""
        return replace(self, effort=min(self.effort, QUICK_EFFORT))

    def psnr_db(self, data: bytes) -> float:
        """PSNR of what a file of this picture decodes to."""
        decoded = develop(container.unpack(data), self.runtime).samples
        error = np.mean((decoded.astype(np.float64) - self.picture.samples) ** 2)
        peak = (1 << self.picture.depth) - 1
        return float(10 * np.log10(peak**2 / error)) if error else float("inf")


def _looks_drawn(samples: Samples) -> bool:
    if samples[:, :, 0].size <= SMALL_PIXELS:
        return True
    return max(_same_share(samples[:, 1:], samples[:, :-1]), _same_share(samples[1:], samples[:-1])) > FLAT_SHARE


def _same_share(a: Samples, b: Samples) -> float:
    """Share of the pixels that are equal; channel by channel, which is faster than all at once."""
    same = np.logical_and.reduce([a[..., c] == b[..., c] for c in range(a.shape[2])])
    return float(same.mean()) if same.size else 0.0


def or_lossless(
    coder: PictureCoder, learned: Callable[[], bytes], *, most_bytes: float = math.inf, may_grow: bool = False
) -> bytes:
    """What `learned` gives, or the lossless file where a small or flat picture is better off with it.

    It is where lossless takes no more bytes, or where learned coding fails and lossless has at most `most_bytes`. With
    `may_grow` it also is where learned coding is poor, at up to three times the bytes.
    """
    if not _looks_drawn(coder.picture.samples):
        return learned()
    exact = encode_lossless(coder.picture, coder.effort)
    try:
        data = learned()
    except InputError:  # no level meets the rate
        if len(exact) <= most_bytes:
            return exact
        raise
    if len(exact) <= len(data) or (may_grow and len(exact) <= WORTH_TIMES * len(data) and _is_poor(coder, data)):
        return exact
    return data


def _is_poor(coder: PictureCoder, data: bytes) -> bool:
    coding = container.unpack_header(data).coding
    assert coding is not None
    return coder.psnr_db(data) < _usual_psnr_db(coder.runtime.bundle, coding.level) - POOR_DB


def _usual_psnr_db(bundle: Bundle, level: int) -> float:
    """What the model reaches on photographs at a level, by its card; without a curve there, anything is usual."""
    curve = np.array(bundle.manifest.curve, np.float64).reshape(-1, 2)
    return float(np.interp(level, curve[:, 0], curve[:, 1])) if len(curve) else 0.0
