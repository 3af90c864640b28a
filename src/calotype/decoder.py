"""The bytes of a file, taken apart, to a picture: window after window, whatever the picture's size."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calotype import lossless, pixels, postfilter
from calotype.container import Container
from calotype.errors import InputError, LimitExceeded, OptionError
from calotype.header import Coding, Header
from calotype.manifest import HALO_PX
from calotype.pixels import Part, Picture, Samples
from calotype.postfilter import NO_WEIGHTS, Weights
from calotype.prior import Latents, decode_tile
from calotype.runtime import Runtime
from calotype.threads import pool
from calotype.tiling import Box, Floats, boxes, padded
from calotype.wire import Reader

WINDOW_PX = 576
"""The side of what is synthesised at a time, a usual tile's; a picture of one tile is synthesised in one piece."""
FILTERED_PX = 256
"""The side of what is filtered at a time, which takes a dozen planes of it."""
LOOKAHEAD = 3
"""So many windows' tiles are decoded at a time."""
PREVIEW_SCALE = 16
"""What a model's preview graph gives is 1/16 of the picture."""
SCALES = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class View:
    """What of a picture is shown: a rectangle of it, at 1/scale of its size."""

    box: Box
    scale: int = 1

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of what is shown."""
        return -(-self.box.height // self.scale), -(-self.box.width // self.scale)


def whole_of(header: Header) -> View:
    """All of a picture."""
    return View(Box(0, 0, header.height, header.width))


def view_of(
    header: Header, region: tuple[int, int, int, int] | None, preview: int | None, max_pixels: int | None
) -> View:
    """What a caller asks for: a region (x, y, width, height), a preview of 1/n, or all.

    Raises:
        OptionError: If there can be no such region or preview.
        InputError: If the region does not lie within this picture.
        LimitExceeded: If it is of more pixels than `max_pixels`; a preview counts as the whole picture.
    """
    if region is not None and preview is not None:
        raise OptionError("region and preview are given; they exclude each other")
    if preview is not None and preview not in SCALES:
        raise OptionError(f"preview {preview!r} is not one of {', '.join(map(str, SCALES))}")
    view = View(whole_of(header).box if region is None else _box_of(header, region), int(preview or 1))
    pixel_count = view.box.height * view.box.width
    if max_pixels is not None and pixel_count > max_pixels:
        size = f"{view.box.width}x{view.box.height}"
        raise LimitExceeded(f"{size} is {pixel_count} pixels, over the limit of {max_pixels}")
    return view


def _box_of(header: Header, region: tuple[int, int, int, int]) -> Box:
    try:
        x, y, width, height = map(index, region)
    except (TypeError, ValueError) as error:
        raise OptionError(f"region {region!r} is not four integers: x, y, width, height") from error
    if width < 1 or height < 1 or x < 0 or y < 0:
        raise OptionError(f"region {region} begins before the picture or is of no pixels")
    box = Box(y, x, height, width)
    if box.right > header.width or box.bottom > header.height:
        raise InputError(f"region {region} does not lie within the picture of {header.width}x{header.height} pixels")
    return box


def tiles_of(header: Header, view: View) -> set[int]:
    """The tiles that a view may be decoded from, whatever the model, by number."""
    seen = (_seen(header, view, window, HALO_PX) for window in _windows(header, view))
    return {tile for box in seen for tile in _tiles_under(header, box)}


def _by_preview(header: Header, view: View) -> bool:
    """Whether the model's preview graph shows a view; it knows the latents of the first head alone."""
    return header.coding is not None and header.coding.head == 0 and view.scale >= PREVIEW_SCALE


def _seen(header: Header, view: View, window: Box, reach_px: int) -> Box:
    """What a window is made from, within the picture as it is padded."""
    picture = Box(0, 0, padded(header.height), padded(header.width))
    margin_px = 0 if header.coding is None or _by_preview(header, view) else reach_px
    return window.grown(margin_px, PREVIEW_SCALE).common(picture)


def _windows(header: Header, view: View) -> list[Box]:
    """Along the shorter side first, so that few tiles are held at a time."""
    box = view.box
    side_px = WINDOW_PX if header.tile_count > 1 else header.tile_px
    windows = list(boxes(box, side_px))
    return sorted(windows, key=lambda w: (w.left, w.top)) if box.width > box.height else windows


def _tiles_under(header: Header, box: Box) -> list[int]:
    rows = range(box.top // header.tile_px, min(-(-box.bottom // header.tile_px), header.tile_rows))
    columns = range(box.left // header.tile_px, min(-(-box.right // header.tile_px), header.tile_columns))
    return [row * header.tile_columns + column for row in rows for column in columns]


@dataclass(frozen=True)
class _Tile:
    """A decoded tile: y_hat (h/16, w/16, m), or samples (h, w, c) of a lossless file; alpha (h, w, 1); weights."""

    box: Box
    content: NDArray[Any]
    alpha: Samples | None
    weights: Weights


def _gathered(seen: Box, parts: Mapping[Box, NDArray[Any]], scale: int) -> NDArray[Any]:
    """What the parts, each in its box, hold of a rectangle (h/scale, w/scale, c); channels are outermost in memory."""
    example = next(iter(parts.values()))
    rows, columns = -(-seen.height // scale), -(-seen.width // scale)
    out = np.empty((example.shape[2], rows, columns), example.dtype).transpose(1, 2, 0)
    for box, part in parts.items():
        common = box.common(seen)
        out[common.within(seen).slices(scale)] = part[common.within(box).slices(scale)]
    return out


def _filtered(runtime: Runtime, x: Floats, seen: Box, window: Box, tiles: list[_Tile]) -> Floats:
    """What was synthesised, filtered as the tiles that a window shows want it."""
    shares = [(tile.box.common(window), tile.weights) for tile in tiles if len(tile.weights)]
    wanted = [(part.within(seen), weights) for box, weights in shares for part in boxes(box, FILTERED_PX)]
    if not wanted:
        return x
    shown = x.clip(-0.5, 0.5)
    out = shown.copy()
    for box, weights in wanted:
        out[(slice(None), *box.slices())] = runtime.postfilter(shown, box, weights)
    return out


class _Developer:
    """Shows a view of a file; the runtime is that of the model that the header names, None for a lossless file."""

    def __init__(self, whole: Container, runtime: Runtime | None, view: View) -> None:
        self.whole, self.runtime, self.view = whole, runtime, view
        self.header = whole.header
        self._grid = list(boxes(whole_of(self.header).box, self.header.tile_px))
        coding = self.header.coding
        self._reach_px = 0
        self._weights = list[Weights]()
        if coding is None or runtime is None:
            return
        manifest = runtime.bundle.manifest
        self._reach_px = manifest.heads[coding.head].reach_px
        has_filter = len(whole.postfilter) and manifest.channels == postfilter.CHANNELS
        if has_filter and not _by_preview(self.header, view):
            self._weights = postfilter.unpack(whole.postfilter, self.header.tile_count)
            self._reach_px = max(self._reach_px, postfilter.MARGIN_PX)

    def seen(self, window: Box) -> Box:
        """What a window is made from."""
        return _seen(self.header, self.view, window, self._reach_px)

    def tile(self, number: int) -> _Tile:
        """Decode a tile."""
        header, box = self.header, self._grid[number]
        block, data = _split(header, self.whole.tiles[number])
        alpha = lossless.unpack(block, box.height, box.width, 1, header.depth) if header.alpha else None
        if header.coding is None:
            samples = lossless.unpack(data, box.height, box.width, header.channels, header.depth)
            return _Tile(box, samples, alpha, NO_WEIGHTS)
        assert self.runtime is not None
        latents = decode_tile(self.runtime, data, header.coding.level, (box.height, box.width))
        weights = self._weights[number] if self._weights else NO_WEIGHTS
        return _Tile(box, latents.y_hat.transpose(1, 2, 0), alpha, weights)

    def part(self, window: Box, tiles: list[_Tile]) -> Part:
        """A window, from the tiles that it needs."""
        scale = self.view.scale
        if self.header.coding is None:
            samples = pixels.reduced(_gathered(window, {t.box: t.content for t in tiles}, 1), scale)
        else:
            samples = self._synthesised(window, tiles)
        if self.header.alpha:
            alpha = _gathered(window, {t.box: t.alpha for t in tiles if t.alpha is not None}, 1)
            samples = np.concatenate([samples, pixels.reduced(alpha, scale)], axis=2)
        at = window.within(self.view.box)
        return Part(at.top // scale, at.left // scale, samples)

    def _synthesised(self, window: Box, tiles: list[_Tile]) -> Samples:
        header, runtime, scale, coding = self.header, self.runtime, self.view.scale, self.header.coding
        assert runtime is not None
        assert coding is not None
        seen = self.seen(window)
        extents = {Box(t.box.top, t.box.left, padded(t.box.height), padded(t.box.width)): t.content for t in tiles}
        y_hat = _gathered(seen, extents, 16).transpose(2, 0, 1)
        if _by_preview(header, self.view):
            x, done = runtime.preview(y_hat, coding.level), PREVIEW_SCALE
        else:
            x, done = runtime.synthesise(y_hat, coding.level, coding.head), 1
            x = _filtered(runtime, x, seen, window, tiles)
        x = x[(slice(None), *window.within(seen).slices(done))]
        x = pixels.shown(x, header.channels)
        return pixels.reduced(pixels.from_unit(x, header.depth), scale // done)


def parts_of(whole: Container, runtime: Runtime | None, view: View) -> Iterator[Part]:
    """What is shown, in parts that do not overlap. Tiles are decoded side by side, each once, and held while needed."""
    developer = _Developer(whole, runtime, view)
    windows = _windows(whole.header, view)
    needed = [_tiles_under(whole.header, developer.seen(window)) for window in windows]
    with pool(len({tile for tiles in needed for tile in tiles})) as threads, pool(1) as here:
        yield from _in_parallel(developer, threads, threads if len(windows) > 1 else here, windows, needed)


def _in_parallel(
    developer: _Developer, for_tiles: Executor, for_parts: Executor, windows: list[Box], needed: list[list[int]]
) -> Iterator[Part]:
    last_use = {tile: i for i, tiles in enumerate(needed) for tile in tiles}
    decoded: dict[int, Future[_Tile]] = {}
    shown: deque[Future[Part]] = deque()
    for i, window in enumerate(windows):
        for tile in (tile for tiles in needed[i : i + LOOKAHEAD] for tile in tiles):
            if tile not in decoded:
                decoded[tile] = for_tiles.submit(developer.tile, tile)
        shown.append(for_parts.submit(developer.part, window, [decoded[tile].result() for tile in needed[i]]))
        for tile in needed[i]:
            if last_use[tile] == i:
                del decoded[tile]
        if len(shown) > LOOKAHEAD:
            yield shown.popleft().result()
    while shown:
        yield shown.popleft().result()


def develop(whole: Container, runtime: Runtime | None) -> Picture:
    """The picture; the runtime is that of the model that the header names, None for a lossless file."""
    header, view = whole.header, whole_of(whole.header)
    samples = pixels.join(parts_of(whole, runtime, view), *view.size_px)
    alpha = samples[:, :, header.channels :] if header.alpha else None
    return Picture(samples[:, :, : header.channels], alpha, whole.metadata)


def tile_latents(whole: Container, runtime: Runtime, coding: Coding) -> list[Latents]:
    """The latents of each tile, in raster order.

    Raises:
        InexactRuntime: If they are not what the encoder had.
    """
    header, out = whole.header, list[Latents]()
    for box, payload in zip(boxes(whole_of(header).box, header.tile_px), whole.tiles, strict=True):
        data = _split(header, payload)[1]
        out.append(decode_tile(runtime, data, coding.level, (box.height, box.width)))
    return out


def _split(header: Header, payload: memoryview) -> tuple[memoryview, memoryview]:
    """A tile's alpha block, which may be empty, and its data."""
    if not header.alpha:
        return payload[:0], payload
    reader = Reader(payload)
    block = reader.take(reader.varint("alpha length"), "alpha")
    return block, payload[reader.at :]
