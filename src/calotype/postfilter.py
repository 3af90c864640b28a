"""A filter after synthesis that a writer fits to each tile (SPEC.md, section 6.1).

Some of the error that a synthesis leaves follows from the decoded samples around, of all channels, but in each picture
in another way. Least squares finds it, and a few bytes say it: the adaptive loop filter of video codecs (Tsai et al.
2013). Coefficients would cost much of what they bring. So what is said is how much of each of a few *modes*, filters
that most pictures' own are nearly made of (tools/postfilter.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from calotype.errors import DamagedFile
from calotype.tiling import Box, Floats
from calotype.wire import Reader

Weights = NDArray[np.int8]
"""How much of each mode, the first of them (n,)."""
NO_WEIGHTS: Weights = np.zeros(0, np.int8)
Doubles = NDArray[np.float64]
Products = Callable[[Floats, Floats], Floats]
"""What `Runtime.products` does."""

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
"""x (1, c, h, w), which goes on beyond its edges as it ends, and kernel (3 c, c, 5, 5) -> x, filtered."""
PRODUCTS_FILE = "products.onnx"
"""a (i, n), b (j, n) -> products (i, j), each the sum of n."""
NESTED = (4, 8, 16, 32, 64, 96, 128)
"""How many modes a writer tries."""

ENOUGH_PX = 1 << 17
"""So many pixels of a tile, in rows all over it, tell nearly as much as all."""
BITS_A_WEIGHT = 8
CHUNK_BITS = 56.0
"""What a file takes to say one tile's weights, without them."""
GREY_SHARE = 0.03
"""How much the errors of the channels of a grey picture count beside that of their mean."""

_STRIP_PX = 1 << 12
_RIDGE = 1e-3
_LARGEST = 127


@dataclass(frozen=True)
class Sample:
    """A part of a picture that a filter is fitted to.

    Attributes:
        x: The picture there, grey (1, h, w) or not (c, h, w).
        x_hat: What a latent stands for (c, h, w), clipped to what samples hold.
        box: Where it counts. What is around it is seen alone.
    """

    x: Floats
    x_hat: Floats
    box: Box

    @property
    def missed(self) -> Floats:
        """What each channel of x_hat lacks, in the box."""
        return (self.x - self.x_hat)[(slice(None), *self.box.slices())]


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


def inputs_of(x_hat: Floats, box: Box, every: int = 1) -> Iterator[tuple[slice, Floats]]:
    """Every so many rows of a box of x_hat (c, h, w), some at a time, and their inputs (inputs, pixels)."""
    r, factors = RADIUS_PX, _factors(x_hat)[(slice(None), *box.slices())]
    rows, columns = (
        np.arange(start - r, stop + r).clip(0, size - 1)
        for start, stop, size in zip((box.top, box.left), (box.bottom, box.right), x_hat.shape[1:], strict=True)
    )
    around = x_hat[:, rows][:, :, columns]
    strip = every * max(1, _STRIP_PX // box.width)
    for top in range(0, box.height, strip):
        some = slice(top, min(top + strip, box.height), every)
        sums = _sums(around[:, some.start : some.stop + 2 * r], every)
        busy, light = factors[:, some].reshape(2, -1)
        yield some, np.concatenate([sums, sums * busy, sums * light])


def _sums(around: Floats, every: int) -> Floats:
    """The sums of opposite samples, of each pair of taps and channel, in every so many rows."""
    r = RADIUS_PX
    rows, columns = (side - 2 * r for side in around.shape[1:])
    out = np.empty((len(TAPS), CHANNELS, -(-rows // every), columns), np.float32)
    out[0] = around[:, r : r + rows : every, r : r + columns]
    for pair, (dy, dx) in zip(out[1:], TAPS[1:], strict=True):
        one, other = (
            around[:, r + s * dy : r + s * dy + rows : every, r + s * dx : r + s * dx + columns] for s in (1, -1)
        )
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


def moments(
    products_of: Products, samples: Sequence[Sample], area_px: int, enough_px: int = ENOUGH_PX
) -> tuple[Doubles, Doubles]:
    """Sums over a tile: of products of inputs (i, i), and of what x_hat misses with inputs (c, i).

    Args:
        products_of: How products are summed. Not by numpy, whose threads, once there, hold up those of the networks.
        samples: Parts of the tile that stand for all of it.
        area_px: How many pixels the tile has.
        enough_px: How many pixels to count, at most.
    """
    every = math.ceil(sum(sample.box.height * sample.box.width for sample in samples) / enough_px)
    every += 1 - every % 2  # of pictures whose colours were doubled, every second row is another kind
    sums, counted_px = np.zeros((INPUTS + CHANNELS, INPUTS)), 0
    for sample in samples:
        missed = sample.missed
        for rows, inputs in inputs_of(sample.x_hat, sample.box, every):
            both = np.concatenate([inputs, missed[:, rows].reshape(CHANNELS, -1)])
            sums += products_of(both, inputs)
            counted_px += inputs.shape[1]
    sums *= area_px / counted_px
    return sums[:INPUTS], sums[INPUTS:]


def _counted(channels: int) -> Doubles:
    """What counts of the errors of a picture's channels, (n, c).

    Of a grey picture their mean is shown. Each counts a little, too, for those that go apart are clipped alone.
    """
    each = np.eye(CHANNELS)
    if channels > 1:
        return each
    return np.concatenate([each.mean(axis=0, keepdims=True), math.sqrt(GREY_SHARE / CHANNELS) * each])


def _among_modes(kernels: Doubles, products: Doubles) -> Doubles:
    """Products of modes (k, k) from those of inputs; in pieces so small that numpy starts no threads for them."""
    flat, some = kernels.reshape(len(kernels), -1), kernels @ products
    return (some.reshape(-1, 4, flat.shape[1]) @ flat.T).reshape(len(kernels), -1)


def _nested_solutions(q: Doubles, b: Doubles) -> Doubles:
    """What q, its first rows and columns alone, takes to b: a column for each of NESTED, 0 beyond its count.

    One elimination serves all, and numpy starts no threads for it, as it does to solve 128 equations.
    """
    rows = np.column_stack([q, b])
    for i in range(len(q)):
        rows[i + 1 :] -= np.outer(rows[i + 1 :, i] / rows[i, i], rows[i])
    solutions = np.where(np.arange(len(q))[:, None] < NESTED, rows[:, -1:], 0.0)
    for i in reversed(range(len(q))):
        solutions[i] = (solutions[i] - rows[i, i + 1 : -1] @ solutions[i + 1 :]) / rows[i, i]
    return solutions


def fit(
    products_of: Products,
    samples: Sequence[Sample],
    area_px: int,
    worth_bits: float,
    *,
    enough_px: int = ENOUGH_PX,
    bits_a_weight: int = BITS_A_WEIGHT,
) -> Weights:
    """The weights that lower the squared error most for their bits; none if no weights do.

    Args:
        products_of: How products are summed.
        samples: Parts of the tile that stand for all of it.
        area_px: How many pixels the tile has.
        worth_bits: What a squared error of 1 in one sample is worth.
        enough_px: How many pixels to count, at most.
        bits_a_weight: What a weight has to save; more than it takes in the file where few pixels speak for many.
    """
    products, cross = moments(products_of, samples, area_px, enough_px)
    counted = _counted(len(samples[0].x))
    kernels = counted @ modes()
    quadratic = _among_modes(kernels, products)
    linear = np.einsum("kci,ci->k", kernels, counted @ cross)
    damped = quadratic + np.diag(_RIDGE * np.diag(quadratic) + 1e-9)
    best, best_bits = NO_WEIGHTS, CHUNK_BITS
    for count, exact in zip(NESTED, _nested_solutions(damped, linear).T, strict=True):
        w, b = np.rint(exact[:count]).clip(-_LARGEST, _LARGEST), linear[:count]
        saved_bits = worth_bits * float(2 * w @ b - w @ quadratic[:count, :count] @ w) - bits_a_weight * count
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
