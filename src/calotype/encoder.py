"""A picture at any level, as the bytes of a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from calotype import container, lossless, pixels, postfilter
from calotype.bundle import Bundle
from calotype.decoder import parts_of, whole_of
from calotype.errors import InputError
from calotype.header import TILE_UNIT_PX, Coding, Header, unpack_header
from calotype.manifest import HALO_PX
from calotype.pixels import STRIP_ROWS, Picture, Samples
from calotype.postfilter import Weights
from calotype.prior import Chosen, words_of
from calotype.runtime import Runtime
from calotype.search import QUICK_EFFORT, Task, search
from calotype.threads import pool
from calotype.tiling import Box, Floats, boxes, padded
from calotype.wire import pack_varint

TILE_PX = 576
"""A region of 512 pixels, and the 32 around it that `photo` looks at, never meets three tiles in a row."""
LARGEST_TILE_PX = 1024
ALPHA_METHOD = 4

FLAT_SHARE = 0.4
"""A picture in which more pixels than this equal their left, or their upper, neighbour is a drawing, not a photo."""
SMALL_PIXELS = 128 * 128
POOR_DB = 3.0
"""Learned coding is poor if it stays this much under what the model reaches on photographs at the same level."""
WORTH_TIMES = 3


def _tile_px(height: int, width: int) -> int:
    """576, but a picture that fits into one tile of 1024 gets one."""
    side = padded(max(height, width))
    return side if side <= LARGEST_TILE_PX else TILE_PX


def _grid(picture: Picture) -> list[Box]:
    """The tiles of a picture."""
    height, width = picture.samples.shape[:2]
    return list(boxes(Box(0, 0, height, width), _tile_px(height, width)))


def _packed(samples: Samples, grid: list[Box], method: int) -> list[bytes]:
    """Each tile of samples, losslessly."""

    def packed(box: Box) -> bytes:
        return lossless.pack(samples[box.slices()], method)

    with pool(len(grid)) as threads:
        return list(threads.map(packed, grid))


def _alpha_blocks(picture: Picture) -> list[bytes] | None:
    """What stands before the data of each tile: its alpha, with its length."""
    if picture.alpha is None:
        return None
    return [pack_varint(len(block)) + block for block in _packed(picture.alpha, _grid(picture), ALPHA_METHOD)]


def _pack(
    picture: Picture, coding: Coding | None, alpha: list[bytes] | None, tiles: list[bytes], weights: bytes = b""
) -> bytes:
    height, width = picture.samples.shape[:2]
    tile_px = _tile_px(height, width)
    header = Header(width, height, picture.channels, picture.depth, alpha is not None, tile_px, coding)
    if alpha is not None:
        tiles = [a + t for a, t in zip(alpha, tiles, strict=True)]
    return container.pack(header, picture.metadata, tiles, weights)


def encode_lossless(picture: Picture, effort: int) -> bytes:
    """The file that keeps every sample."""
    tiles = _packed(picture.samples, _grid(picture), min(effort, 6))
    return _pack(picture, None, _alpha_blocks(picture), tiles)


@dataclass(frozen=True)
class PictureCoder:
    """A picture ready to be coded at any level, for a head of the model.

    Its alpha is coded already. A tile is analysed and searched together with what surrounds it, as far as that matters,
    and apart from the others.
    """

    picture: Picture
    runtime: Runtime
    effort: int
    head: int
    alpha: list[bytes] | None

    @classmethod
    def of(cls, picture: Picture, runtime: Runtime, effort: int, head: int = 0) -> PictureCoder:
        """The picture as the model wants it."""
        channels = runtime.bundle.manifest.channels
        if channels == 1:
            picture = pixels.as_grey(picture)
        if picture.channels != channels and (picture.channels, channels) != (1, 3):
            raise InputError(f"{picture.channels} channels; the model {runtime.bundle.name} codes {channels}")
        if head:
            effort = min(effort, QUICK_EFFORT)  # more effort lowers the squared error, which this head is not after
        return cls(picture, runtime, effort, head, _alpha_blocks(picture))

    def at_level(self, level: int) -> bytes:
        """The file at a level."""

        def coded(tile: Box) -> tuple[bytes, Weights]:
            chosen, weights = search(self._task(tile, level), self.effort)
            return words_of(self.runtime, chosen), weights

        grid = _grid(self.picture)
        with pool(len(grid)) as threads:
            tiles, weights = map(list, zip(*threads.map(coded, grid), strict=True))
        coding = Coding(self.runtime.bundle.id, self.head, level)
        return _pack(self.picture, coding, self.alpha, tiles, postfilter.pack(weights))

    def chosen(self, level: int) -> Iterator[Chosen]:
        """What is coded of each tile at a level, at the lowest effort."""
        return (self._task(tile, level).quick_choice() for tile in _grid(self.picture))

    def _task(self, tile: Box, level: int) -> Task:
        height, width = self.picture.samples.shape[:2]
        seen = tile.grown(HALO_PX, TILE_UNIT_PX).common(Box(0, 0, padded(height), padded(width)))
        inside = seen.common(Box(0, 0, height, width))
        x = self._unit(inside, seen)
        y = self.runtime.analyse(x, level, self.head)
        size_px, channels = (inside.height, inside.width), self.picture.channels
        return Task(self.runtime, x, size_px, tile.within(seen), level, y, channels, self.head)

    def _unit(self, inside: Box, seen: Box) -> Floats:
        """A part of the picture in the model's channels, padded to `seen`."""
        x = pixels.to_unit(self.picture.samples[inside.slices()])
        x = np.broadcast_to(x, (self.runtime.bundle.manifest.channels, *x.shape[1:]))
        margins = (0, seen.height - inside.height), (0, seen.width - inside.width)
        return np.pad(x, ((0, 0), *margins), mode="edge")

    @property
    def quick(self) -> PictureCoder:
        """The same without a search for better latents, to find a level with."""
        return replace(self, effort=min(self.effort, QUICK_EFFORT))

    def psnr_db(self, data: bytes) -> float:
        """PSNR of what a file of this picture decodes to."""
        whole, error = container.unpack(data), 0.0
        channels = self.picture.channels
        for part in parts_of(whole, self.runtime, whole_of(whole.header)):
            got = part.samples[:, :, :channels]
            box = Box(part.top, part.left, *got.shape[:2])
            error += float(np.sum((got.astype(np.float64) - self.picture.samples[box.slices()]) ** 2))
        peak = (1 << self.picture.depth) - 1
        return 10 * math.log10(peak**2 * self.picture.samples.size / error) if error else math.inf


def _looks_drawn(samples: Samples) -> bool:
    if samples[:, :, 0].size <= SMALL_PIXELS:
        return True
    first = samples[:, :, :1]
    parts = (first, samples) if samples.shape[2] > 1 else (first,)  # of photos, one channel tells
    return all(_flat_share(part) > FLAT_SHARE for part in parts)


def _flat_share(samples: Samples) -> float:
    strips = [samples[top : top + STRIP_ROWS] for top in range(0, len(samples), STRIP_ROWS)]
    beside, above = ((s[:, 1:], s[:, :-1]) for s in strips), ((s[1:], s[:-1]) for s in strips)
    return max(_same_share(beside), _same_share(above))


def _same_share(pairs: Iterable[tuple[Samples, Samples]]) -> float:
    """Share of the pixels that are equal; channel by channel, which is faster than all at once."""
    same = pixel_count = 0
    for a, b in pairs:
        same += int(np.logical_and.reduce([a[..., c] == b[..., c] for c in range(a.shape[2])]).sum())
        pixel_count += a[..., 0].size
    return same / pixel_count if pixel_count else 0.0


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
    coding = unpack_header(data).coding
    assert coding is not None
    return coder.psnr_db(data) < _usual_psnr_db(coder.runtime.bundle, coding.level) - POOR_DB


def _usual_psnr_db(bundle: Bundle, level: int) -> float:
    """What the model reaches on photographs at a level, by its card; without a curve there, anything is usual."""
    curve = np.array(bundle.manifest.curve, np.float64).reshape(-1, 2)
    return float(np.interp(level, curve[:, 0], curve[:, 1])) if len(curve) else 0.0
