"""The oldest rivals of a learned codec: the linear transform, Huffman's code and Lempel and Ziv's.

An autoencoder whose layers are linear learns the principal components of its input, also called the Karhunen-Loeve
transform (KLT). Here it codes blocks of 8x8 pixels in RGB, 192 samples. Components measured on the picture itself would
have to be in its file: for Kodak's 768x512 pixels they take 14 to 62 kB in half precision, a third to two thirds of the
whole, and make the symbols no smaller. So the components are those of a model of the picture: samples whose correlation
falls as rho^distance down and across (as rho nears 1 they become JPEG's DCT), times the principal components of its
colours. The file holds two rho and a 3x3 matrix.

Every file is width, height, a CRC-32 of all else, and a body.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calotype.coding import PRECISION_BITS, Decoder, Encoder, Table, Tables

Samples = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Symbols = NDArray[np.int32]

BLOCK_PX = 8
COMPONENTS = BLOCK_PX * BLOCK_PX * 3
FLAT = 3
"""So many components come first and hold a block's colour: their symbols are differences from the block before."""
ROUNDING = 1 / 3
"""Added before a quotient is cut off: less than 1/2, for a smaller symbol is also a cheaper one."""

_SIZE = struct.Struct("<II")
_CRC = struct.Struct("<I")
_PARAMETERS = 15
_STEPS = np.arange(84)
_MEANS = np.concatenate([[0.0], np.ldexp(4.0 + _STEPS % 4, _STEPS // 4 - 14)])
"""Of the magnitudes of symbols, one for each table: four an octave, from 2^-12."""
_BOUNDS = np.concatenate([[0.0], (_MEANS[1:-1] + _MEANS[2:]) / 2])


def klt_encode(image: Image.Image, quality: float) -> bytes:
    """A picture through the KLT of its blocks, at a quality 0-100: with a quantiser's step from 300 to 5."""
    samples = np.asarray(image.convert("RGB"))
    blocks = _blocks(samples)
    parameters = _parameters(blocks, step=300 / 60 ** (quality / 100))
    step, mean, basis = _transform(parameters)
    coefficients = (blocks - mean) @ basis
    symbols = (np.sign(coefficients) * np.floor(np.abs(coefficients) / step + ROUNDING)).astype(np.int32)
    symbols[:, :FLAT] = np.diff(symbols[:, :FLAT], axis=0, prepend=0)
    levels = _nearest(np.abs(symbols).mean(axis=0))
    encoder = Encoder(_tables())
    for i, index in reversed(list(enumerate(_indices(levels, symbols)))):
        encoder.push(symbols[:, i], index)
    used = levels.tobytes().rstrip(b"\0")
    return _pack(image.size, parameters.tobytes() + bytes([len(used)]) + used + encoder.words())


def klt_decode(data: bytes) -> Image.Image:
    """The picture of a file that `klt_encode` made.

    Raises:
        ValueError: The file was changed or cut.
    """
    (width, height), body = _unpack(data)
    parameters = np.frombuffer(body, "<f2", _PARAMETERS)
    first = parameters.nbytes + 1
    last = first + body[first - 1]
    levels = np.frombuffer(body[first:last].ljust(COMPONENTS, b"\0"), np.uint8)
    symbols = np.zeros((-(-height // BLOCK_PX) * -(-width // BLOCK_PX), COMPONENTS), np.int32)
    decoder = Decoder(_tables(), body[last:])
    for i, index in enumerate(_indices(levels, symbols)):
        symbols[:, i] = decoder.pop(index)
    symbols[:, :FLAT] = np.cumsum(symbols[:, :FLAT], axis=0)
    step, mean, basis = _transform(parameters)
    return Image.fromarray(_joined(symbols.astype(np.float32) * step @ basis.T + mean, height, width))


def huffman_encode(image: Image.Image, quality: float) -> bytes:  # noqa: ARG001
    """The samples of a picture under Huffman codes alone, and so without loss at any quality.

    It is zlib's deflate with `Z_HUFFMAN_ONLY`: no matches, a new code every some 16,000 samples.
    """
    return _zip(image, zlib.Z_HUFFMAN_ONLY)


def huffman_decode(data: bytes) -> Image.Image:
    """The picture of a file that `huffman_encode` made.

    Raises:
        ValueError: The file was changed or cut.
    """
    return _unzip(data)


def deflate_encode(image: Image.Image, quality: float) -> bytes:  # noqa: ARG001
    """The samples of a picture under deflate (LZ77, then Huffman), and so without loss at any quality.

    It is zlib at level 9, on samples as they are: PNG without its filters.
    """
    return _zip(image, zlib.Z_DEFAULT_STRATEGY)


def deflate_decode(data: bytes) -> Image.Image:
    """The picture of a file that `deflate_encode` made.

    Raises:
        ValueError: The file was changed or cut.
    """
    return _unzip(data)


def _pack(size: tuple[int, int], body: bytes) -> bytes:
    head = _SIZE.pack(*size)
    return head + _CRC.pack(zlib.crc32(head + body)) + body


def _unpack(data: bytes) -> tuple[tuple[int, int], bytes]:
    start = _SIZE.size + _CRC.size
    if len(data) < start:
        raise ValueError(f"a file of {len(data)} bytes is cut: its head alone takes {start}")
    head, body = data[: _SIZE.size], data[start:]
    (crc,) = _CRC.unpack_from(data, _SIZE.size)
    if zlib.crc32(head + body) != crc:
        raise ValueError("the checksum does not hold: the file was changed or cut")
    width, height = _SIZE.unpack(head)
    return (width, height), body


def _zip(image: Image.Image, strategy: int) -> bytes:
    coder = zlib.compressobj(level=9, strategy=strategy)
    return _pack(image.size, coder.compress(image.convert("RGB").tobytes()) + coder.flush())


def _unzip(data: bytes) -> Image.Image:
    size, body = _unpack(data)
    return Image.frombytes("RGB", size, zlib.decompress(body))


def _blocks(samples: Samples) -> Floats:
    """Blocks (n, 192) in reading order, beyond the edges filled with the nearest sample."""
    h, w, _ = samples.shape
    padded = np.pad(samples, [(0, -h % BLOCK_PX), (0, -w % BLOCK_PX), (0, 0)], mode="edge").astype(np.float32)
    grid = padded.reshape(-1, BLOCK_PX, padded.shape[1] // BLOCK_PX, BLOCK_PX, 3)
    return grid.swapaxes(1, 2).reshape(-1, COMPONENTS)


def _joined(blocks: Floats, height: int, width: int) -> Samples:
    columns = -(-width // BLOCK_PX)
    grid = blocks.reshape(-1, columns, BLOCK_PX, BLOCK_PX, 3).swapaxes(1, 2)
    pixels = grid.reshape(-1, columns * BLOCK_PX, 3)[:height, :width]
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


def _parameters(blocks: Floats, step: float) -> NDArray[np.float16]:
    """Step, rho down and across, mean colour and principal components of the colours, as the file holds them."""
    colours = blocks.reshape(-1, 3)
    mean = colours.mean(axis=0, dtype=np.float64)
    centred = colours - mean
    grid = centred.reshape(-1, BLOCK_PX, BLOCK_PX, 3)
    components = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    values = [step, _correlation(grid, 1), _correlation(grid, 2), *mean, *components.ravel()]
    return np.array(values, "<f2")


def _correlation(centred: NDArray[np.float64], axis: int) -> float:
    """Of neighbours along the axis, kept off 0 and 1, where the components are not determined."""
    gap = np.mean(np.diff(centred, axis=axis) ** 2) / (2 * np.mean(centred**2) + 1e-9)
    return min(max(1 - float(gap), 0.1), 0.999)


def _transform(parameters: NDArray[np.float16]) -> tuple[np.float32, Floats, Floats]:
    """Step, mean of the blocks (192,), and components as columns (192, 192), livelier ones first."""
    step, rho_down, rho_across, *rest = parameters.astype(np.float64)
    (power_down, down), (power_across, across) = _ar1_components(rho_down), _ar1_components(rho_across)
    order = np.argsort(-np.kron(power_down, power_across), kind="stable")
    basis = np.kron(np.kron(down, across)[:, order], np.reshape(rest[3:], (3, 3)))
    return np.float32(step), np.tile(rest[:3], BLOCK_PX**2).astype(np.float32), basis.astype(np.float32)


def _ar1_components(rho: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variances and components of BLOCK_PX samples with correlation rho^distance; each begins above zero."""
    place = np.arange(BLOCK_PX)
    power, components = np.linalg.eigh(rho ** np.abs(place[:, None] - place))
    return power[::-1], (components * np.sign(components[0]))[:, ::-1]


@cache
def _tables() -> Tables:
    return Tables(tuple(_laplacian(float(mean)) for mean in _MEANS))


def _laplacian(mean: float) -> Table:
    """Symbols whose probability falls as theta^|symbol|, so that their mean magnitude is `mean`."""
    theta = mean / (1 + math.sqrt(1 + mean * mean))
    radius = 16 + int(16 * mean)
    side = np.cumprod(np.full(radius, theta))
    probability = np.concatenate([side[::-1], [1.0], side, [0.0]]) * ((1 - theta) / (1 + theta))
    whole = 1 << PRECISION_BITS
    frequencies = 1 + np.floor(probability * (whole - len(probability))).astype(np.int64)
    frequencies[radius] += whole - frequencies.sum()
    return Table(radius, frequencies.astype(np.uint32))


def _nearest(mean: NDArray[np.float64]) -> Samples:
    """The table with that mean magnitude, or about; table 0 only for 0."""
    return np.searchsorted(_BOUNDS, mean).astype(np.uint8)


def _indices(levels: Samples, symbols: Symbols) -> Iterator[Samples]:
    """The tables (n,) of each component in turn, from the symbols of those before it, which a decoder fills in.

    A symbol is expected to be its component's mean, times how much livelier its block has been than the average one.
    """
    activity, expected = np.zeros(len(symbols)), 0.0
    for i, mean in enumerate(_MEANS[levels]):
        yield _nearest(mean * (1 + activity) / (1 + expected))
        activity += np.abs(symbols[:, i])
        expected += mean
