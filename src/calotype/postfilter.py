"""A filter after synthesis that a writer fits to each tile (SPEC.md, section 6.1).

Some of the error that a synthesis leaves follows from the decoded samples around, of all channels, but in each picture
in another way. Least squares finds it, and a few bytes say it: the adaptive loop filter of video codecs (Tsai et al.
2013). Coefficients would cost much of what they bring. So what is said is how much of each of a few *modes*, filters
that most pictures' own are nearly made of (tools/postfilter.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from calotype.errors import DamagedFile
from calotype.pixels import shown
from calotype.tiling import Box, Floats
from calotype.wire import Reader

Weights = NDArray[np.int8]
"""How much of each mode, the first of them (n,)."""
NO_WEIGHTS: Weights = np.zeros(0, np.int8)
Doubles = NDArray[np.float64]

CHANNELS = 3
RADIUS_PX = 2
MARGIN_PX = 16
"""What a part of a picture is synthesised with around it, at least, to be filtered: the radius, in whole steps of y."""
TAPS = tuple((dy, dx) for dy in range(3) for dx in range(-2, 3) if (dy, dx) >= (0, 0))
"""Half of a 5x5 neighbourhood: what a mode does with a sample it does with the one opposite."""
PLAIN = CHANNELS * len(TAPS)
INPUTS = 3 * PLAIN
"""The sums of opposite samples as they are, times how busy the picture is there, and times how light."""
BUSY = 3 / 255
"""A mean difference to the surroundings that counts as half busy."""
MODES_FILE = "postfilter.i8"
GRAPH_FILE = "postfilter.onnx"
GRAPH = f"calotype/{GRAPH_FILE}"
"""x (1, c, h, w), which goes on beyond its edges as it ends, and kernel (3 c, c, 5, 5) -> x, filtered."""
NESTED = (4, 8, 16, 32, 64, 96, 128)
"""How many modes a writer tries."""

_STRIP_ROWS = 8
_ENOUGH_PIXELS = 1 << 17
_RIDGE = 1e-3
_LARGEST = 127


def packaged(name: str) -> bytes:
    """A file of this package."""
    return resources.files("calotype").joinpath(name).read_bytes()


@cache
def modes() -> Floats:
    """What each mode takes the inputs of each channel times, (k, channels, inputs)."""
    table = np.frombuffer(packaged(MODES_FILE), np.int8).reshape(-1, 1 + CHANNELS * INPUTS)
    kernels = np.ldexp(table[:, 1:].astype(np.float32), -table[:, :1].astype(np.int32))
    return kernels.reshape(-1, CHANNELS, INPUTS)


def _mean_of_nine(plane: Floats) -> Floats:
    """Means over 3x3 of a plane (h, w), which goes on beyond its edges as it ends."""
    rows = np.pad(plane, ((1, 1), (0, 0)), mode="edge")
    columns = np.pad(rows[:-2] + rows[1:-1] + rows[2:], ((0, 0), (1, 1)), mode="edge")
    return np.divide(columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:], 9, dtype=np.float32)


def _factors(x_hat: Floats) -> Floats:
    """How busy and how light a picture (c, h, w) is, (2, h, w)."""
    light: Floats = x_hat.mean(axis=0, dtype=np.float32)
    busy = _mean_of_nine(np.abs(light - _mean_of_nine(light)))
    return np.stack([busy / (busy + np.float32(BUSY)), light], dtype=np.float32)


def inputs_of(x_hat: Floats, box: Box) -> Iterator[tuple[slice, Floats]]:
    """Rows of a box of x_hat (c, h, w), as many as tell enough, and their inputs (inputs, pixels)."""
    r, factors = RADIUS_PX, _factors(x_hat)[(slice(None), *box.slices())]
    rows, columns = (
        np.arange(start - r, stop + r).clip(0, size - 1)
        for start, stop, size in zip((box.top, box.left), (box.bottom, box.right), x_hat.shape[1:], strict=True)
    )
    around = x_hat[:, rows][:, :, columns]
    every = -(-box.height * box.width // _ENOUGH_PIXELS)
    for top in range(0, box.height, every * _STRIP_ROWS):
        count = min(_STRIP_ROWS, box.height - top)
        sums = _sums(around[:, top : top + count + 2 * r], count, box.width)
        busy, light = factors[:, top : top + count].reshape(2, -1)
        yield slice(top, top + count), np.concatenate([sums, sums * busy, sums * light])


def _sums(around: Floats, rows: int, columns: int) -> Floats:
    """The sums of opposite samples, of each pair of taps and channel."""
    r, out = RADIUS_PX, np.empty((len(TAPS), CHANNELS, rows, columns), np.float32)
    out[0] = around[:, r : r + rows, r : r + columns]
    for pair, (dy, dx) in zip(out[1:], TAPS[1:], strict=True):
        one, other = (around[:, r + s * dy : r + s * dy + rows, r + s * dx : r + s * dx + columns] for s in (1, -1))
        np.add(one, other, out=pair)
    return out.reshape(PLAIN, -1)


def kernel_of(weights: Weights) -> Floats:
    """The filters that weights stand for, as a convolution (3 channels, channels, 5, 5)."""
    halves = np.tensordot(weights.astype(np.float32), modes()[: len(weights)], 1)
    halves = halves.reshape(CHANNELS, 3, len(TAPS), CHANNELS).transpose(2, 1, 0, 3).reshape(len(TAPS), -1, CHANNELS)
    side = 2 * RADIUS_PX + 1
    kernel = np.zeros((3 * CHANNELS, CHANNELS, side, side), np.float32)
    for half, (dy, dx) in zip(halves, TAPS, strict=True):
        for sign in (1, -1):
            kernel[:, :, RADIUS_PX + sign * dy, RADIUS_PX + sign * dx] = half
    return kernel


def moments(x: Floats, x_hat: Floats, box: Box) -> tuple[Doubles, Doubles]:
    """Sums over a box, by some of its rows: of products of inputs (i, i), and of what x_hat misses with inputs (c, i).

    In float64, for what BLAS makes of float32 depends on its threads, and a weight would now and then round otherwise.
    """
    missed = (x - shown(x_hat, len(x)))[(slice(None), *box.slices())]
    products, cross, row_count = np.zeros((INPUTS, INPUTS)), np.zeros((len(x), INPUTS)), 0
    for rows, inputs in inputs_of(x_hat, box):
        exact = inputs.astype(np.float64)
        products += exact @ exact.T
        cross += missed[:, rows].reshape(len(x), -1) @ exact.T
        row_count += rows.stop - rows.start
    return products * (box.height / row_count), cross * (box.height / row_count)


def fit(x: Floats, x_hat: Floats, box: Box, worth_bits: float) -> Weights:
    """The weights that lower the squared error most for their bits; none if no weights do.

    Args:
        x: The picture, grey (1, h, w) or not (c, h, w).
        x_hat: What a latent stands for (c, h, w), clipped to what samples hold.
        box: The tile, without padding.
        worth_bits: What a squared error of 1 in one sample is worth.
    """
    products, cross = moments(x, x_hat, box)
    kernels = shown(modes().astype(np.float64), len(x), axis=1)
    quadratic = np.einsum("kci,ij,lcj->kl", kernels, products, kernels, optimize=True)
    linear = np.einsum("kci,ci->k", kernels, cross)
    best, best_bits = NO_WEIGHTS, 0.0
    for count in NESTED:
        q, b = quadratic[:count, :count], linear[:count]
        exact = np.linalg.solve(q + _RIDGE * np.diag(np.diag(q)) + np.eye(count) * 1e-9, b)
        w = np.rint(exact).clip(-_LARGEST, _LARGEST)
        saved_bits = worth_bits * float(2 * w @ b - w @ q @ w) - 8 * count
        if saved_bits > best_bits:
            best, best_bits = w.astype(np.int8), saved_bits
    return best


def pack(tiles: list[Weights]) -> bytes:
    """The payload that says each tile's weights; empty if there are none."""
    if not any(map(len, tiles)):
        return b""
    return b"".join(bytes([len(weights)]) + weights.tobytes() for weights in tiles)


def unpack(payload: memoryview, tile_count: int) -> list[Weights]:
    """Each tile's weights.

    Raises:
        DamagedFile: If the payload breaks a rule of the format.
    """
    reader, tiles = Reader(payload), list[Weights]()
    for tile in range(tile_count):
        count = reader.u8(f"number of weights of tile {tile}")
        if count > len(modes()):
            raise DamagedFile(f"tile {tile} is filtered by {count} modes; there are {len(modes())}")
        tiles.append(np.frombuffer(reader.take(count, f"weights of tile {tile}"), np.int8))
    if reader.left:
        raise DamagedFile(f"{reader.left} bytes stand after the weights of the last tile")
    return tiles
