"""A picture at any level, as the bytes of a file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calotype import container, lossless, pixels
from calotype.bundle import Bundle
from calotype.container import Coding, Header
from calotype.decoder import develop
from calotype.errors import InputError
from calotype.pixels import Picture, Samples
from calotype.prior import encode_tile
from calotype.quantise import rate_aware, round_to_nearest
from calotype.runtime import Runtime
from calotype.tiling import boxes, padded

TILE_PX = 512
LARGEST_TILE_PX = 1024

FLAT_SHARE = 0.4
"""A picture in which more pixels than this equal their left neighbour is a drawing rather than a photograph."""
SMALL_PIXELS = 64 * 64
POOR_DB = 3.0
"""Learned coding is poor if it stays this much under what the model reaches on photographs at the same level."""
WORTH_TIMES = 3


def _tile_px(height: int, width: int) -> int:
    """512, but a picture that fits into one tile of 1024 gets one."""
    side = padded(max(height, width))
    return side if side <= LARGEST_TILE_PX else TILE_PX


def _pack(picture: Picture, coding: Coding | None, tiles: list[bytes]) -> bytes:
    height, width = picture.samples.shape[:2]
    tile_px = _tile_px(height, width)
    alpha = picture.alpha
    header = Header(width, height, picture.channels, picture.depth, alpha is not None, tile_px, coding)
    if alpha is not None:
        blocks = [lossless.pack(alpha[box.slices()]) for box in boxes(height, width, tile_px)]
        tiles = [container.pack_varint(len(a)) + a + t for a, t in zip(blocks, tiles, strict=True)]
    return container.pack(header, picture.metadata, tiles)


def encode_lossless(picture: Picture, effort: int) -> bytes:
    """The file that keeps every sample."""
    height, width = picture.samples.shape[:2]
    method = min(effort, 6)
    grid = boxes(height, width, _tile_px(height, width))
    return _pack(picture, None, [lossless.pack(picture.samples[box.slices()], method) for box in grid])


@dataclass(frozen=True)
class PictureCoder:
    """A picture ready to be coded at any level."""

    picture: Picture
    runtime: Runtime
    x: NDArray[np.float32]
    effort: int

    @classmethod
    def of(cls, picture: Picture, runtime: Runtime, effort: int) -> PictureCoder:
        """The picture as the model wants it: its channels, sides that are multiples of 64."""
        channels = runtime.bundle.manifest.channels
        if picture.channels not in (1, channels):
            raise InputError(f"{picture.channels} channels; the model {runtime.bundle.name} codes {channels} (or grey)")
        x = np.broadcast_to(pixels.to_unit(picture.samples), (channels, *picture.samples.shape[:2]))
        below, right = (padded(side) - side for side in x.shape[1:])
        return cls(picture, runtime, np.pad(x, ((0, 0), (0, below), (0, right)), mode="edge"), effort)

    def at_level(self, level: int) -> bytes:
        """The file at a level."""
        height, width = self.picture.samples.shape[:2]
        quantiser = round_to_nearest if self.effort == 1 else rate_aware
        y = self.runtime.analyse(self.x, level)
        tiles: list[bytes] = []
        for box in boxes(height, width, _tile_px(height, width)):
            rows, columns = box.slices(64)
            part = y[:, 4 * rows.start : 4 * rows.stop, 4 * columns.start : 4 * columns.stop]
            part = np.ascontiguousarray(part)
            tiles.append(encode_tile(self.runtime, part, level, (box.height, box.width), quantiser))
        return _pack(self.picture, Coding(self.runtime.bundle.id, 0, level), tiles)

    def psnr_db(self, data: bytes) -> float:
        """PSNR of what a file of this picture decodes to."""
        decoded = develop(container.unpack(data), self.runtime).samples
        error = np.mean((decoded.astype(np.float64) - self.picture.samples) ** 2)
        peak = (1 << self.picture.depth) - 1
        return float(10 * np.log10(peak**2 / error)) if error else float("inf")


def _looks_drawn(samples: Samples) -> bool:
    same = (samples[:, 1:] == samples[:, :-1]).all(axis=2)
    return same.size == 0 or samples[:, :, 0].size <= SMALL_PIXELS or float(same.mean()) > FLAT_SHARE


def or_lossless(coder: PictureCoder, data: bytes, *, may_grow: bool) -> bytes:
    """The lossless file instead, where a small or flat picture is no larger that way, or looks poor coded.

    With `may_grow`, a poor picture may take up to three times the bytes.
    """
    if not _looks_drawn(coder.picture.samples):
        return data
    exact = encode_lossless(coder.picture, coder.effort)
    if len(exact) <= len(data):
        return exact
    if may_grow and len(exact) <= WORTH_TIMES * len(data):
        level = container.unpack_header(data).coding
        assert level is not None
        if coder.psnr_db(data) < _usual_psnr_db(coder.runtime.bundle, level.level) - POOR_DB:
            return exact
    return data


def _usual_psnr_db(bundle: Bundle, level: int) -> float:
    """What the model reaches on photographs at a level, by its card; without a curve there, anything is usual."""
    curve: list[dict[str, float]] = bundle.manifest.card.get("curve", [])
    if not curve:
        return 0.0
    return float(np.interp(level, [p["level"] for p in curve], [p["psnr_db"] for p in curve]))
