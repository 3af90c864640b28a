"""Many images <-> one chunk of bytes: a level, and the words of all latents (SPEC.md, section 10)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calotype.coding import SYMBOL_LIMIT, Decoder, Encoder, IntArray
from calotype.errors import DamagedFile, InputError
from calotype.runtime import Floats
from calotype.textbook.model import Images, Model, TextbookBundle, step_of, values_of

MAX_IMAGES = 1 << 20
BIN_LIMIT = 1 << 30


def quantise(y: Floats, level: int) -> IntArray:
    """Symbols (n, d) of latents (n, d) in bins at a level: the nearest.

    To choose smaller ones where the bits they save outweigh the error (`calotype.quantise`) takes 0 to 3% more bytes at
    equal PSNR here, for symbols stand for the mean of what falls into them already.
    """
    bins = np.floor(y.astype(np.float64) + 0.5).clip(-BIN_LIMIT, BIN_LIMIT).astype(np.int64)
    step = step_of(level)
    return ((bins + step // 2) // step).clip(-SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int32)


def pack_symbols(bundle: TextbookBundle, symbols: IntArray, level: int) -> bytes:
    """Symbols (n, d) as words."""
    encoder = Encoder(bundle.at_level(level)[0])
    encoder.push(symbols.T.ravel(), _index(bundle, len(symbols)))
    return encoder.words()


def unpack_symbols(bundle: TextbookBundle, words: bytes | memoryview, level: int, count: int) -> IntArray:
    """Words -> symbols (count, d).

    Raises:
        DamagedFile: If the words do not end where they should.
    """
    decoder = Decoder(bundle.at_level(level)[0], words)
    symbols = decoder.pop(_index(bundle, count))
    decoder.finish()
    return symbols.reshape(bundle.latents, count).T


def pack_images(model: Model, images: Images, level: int) -> bytes:
    """Images (n, h, w, c), uint8, as one chunk without anything that belongs to a single image.

    Raises:
        InputError: If they are not of the model's size.
    """
    check_images(model.bundle, images)
    return bytes([level]) + pack_symbols(model.bundle, quantise(model.analyse(images), level), level)


def unpack_images(model: Model, data: bytes | memoryview, count: int) -> Images:
    """The `count` images (n, h, w, c) of a chunk.

    Raises:
        DamagedFile: If the chunk breaks a rule.
    """
    return model.synthesise(unpack_latents(model, data, count))


def unpack_latents(model: Model, data: bytes | memoryview, count: int) -> Floats:
    """The latents (n, d) of the `count` images of a chunk, in bins.

    Raises:
        DamagedFile: If the chunk breaks a rule.
    """
    if not data or not 1 <= count <= MAX_IMAGES:
        raise DamagedFile(f"a chunk of {len(data)} bytes for {count} images; 1 to {MAX_IMAGES} fit into one")
    level = data[0]
    symbols = unpack_symbols(model.bundle, data[1:], level, count)
    return values_of(model.bundle, symbols, level)


def check_images(bundle: TextbookBundle, images: NDArray[np.uint8 | np.uint16]) -> Images:
    """The images, if a model codes such.

    Raises:
        InputError: Says what it codes.
    """
    if images.shape[1:] != bundle.image or images.dtype != np.uint8 or not 1 <= len(images) <= MAX_IMAGES:
        height, width, channels = bundle.image
        raise InputError(
            f"the model {bundle.name} codes images of {width}x{height} pixels, {channels} channels, 8 bits, up to "
            f"{MAX_IMAGES} at once; given: {len(images)} of {' x '.join(map(str, images.shape[1:]))}, {images.dtype}"
        )
    return images.astype(np.uint8, copy=False)


def _index(bundle: TextbookBundle, count: int) -> NDArray[np.uint8]:
    """The table of each symbol, latent after latent: the order in which they are coded."""
    return np.repeat(np.arange(bundle.latents, dtype=np.uint8), count)
