"""The bytes of a file, taken apart, to a picture."""

from __future__ import annotations

import numpy as np

from calotype import lossless, pixels
from calotype.container import Coding, Container, Header
from calotype.pixels import Picture, Samples
from calotype.prior import Latents, decode_tile
from calotype.runtime import Runtime
from calotype.tiling import Box, boxes, padded
from calotype.wire import Reader


def _grid(header: Header) -> list[Box]:
    return list(boxes(header.height, header.width, header.tile_px))


def _split(header: Header, payload: memoryview) -> tuple[memoryview, memoryview]:
    """A tile's alpha block, which may be empty, and its data."""
    if not header.alpha:
        return payload[:0], payload
    reader = Reader(payload)
    block = reader.take(reader.varint("alpha length"), "alpha")
    return block, payload[reader.at :]


def tile_latents(whole: Container, runtime: Runtime, coding: Coding) -> list[Latents]:
    """The latents of each tile, in raster order.

    Raises:
        InexactRuntime: If they are not what the encoder had.
    """
    header, out = whole.header, list[Latents]()
    for box, payload in zip(_grid(header), whole.tiles, strict=True):
        data = _split(header, payload)[1]
        out.append(decode_tile(runtime, data, coding.level, (box.height, box.width)))
    return out


def _lossless(whole: Container, channels: int, part: int) -> Samples:
    """Samples of all tiles from their alpha blocks (part 0) or data (part 1)."""
    header = whole.header
    dtype = np.uint8 if header.depth == 8 else np.uint16
    samples = np.empty((header.height, header.width, channels), dtype)
    for box, payload in zip(_grid(header), whole.tiles, strict=True):
        block = _split(header, payload)[part]
        samples[box.slices()] = lossless.unpack(block, box.height, box.width, channels, header.depth)
    return samples


def _synthesise(whole: Container, runtime: Runtime, coding: Coding) -> Samples:
    header = whole.header
    rows, columns = (padded(side) // 16 for side in (header.height, header.width))
    y_hat = np.empty((runtime.bundle.manifest.y_channels, rows, columns), np.float32)
    for box, latents in zip(_grid(header), tile_latents(whole, runtime, coding), strict=True):
        top, left = box.top // 16, box.left // 16
        y_hat[:, top : top + latents.y8.shape[1], left : left + latents.y8.shape[2]] = latents.y_hat
    x = runtime.synthesise(y_hat, coding.level, coding.head)[:, : header.height, : header.width]
    return pixels.from_unit(x if header.channels == len(x) else x.mean(axis=0, keepdims=True), header.depth)


def develop(whole: Container, runtime: Runtime | None) -> Picture:
    """The picture; the runtime is that of the model that the header names, None for a lossless file."""
    header = whole.header
    alpha = _lossless(whole, 1, part=0) if header.alpha else None
    if header.coding is None:
        return Picture(_lossless(whole, header.channels, part=1), alpha, whole.metadata)
    assert runtime is not None
    return Picture(_synthesise(whole, runtime, header.coding), alpha, whole.metadata)
