"""Latents of a tile <-> rANS words, by way of the exact prior (SPEC.md, section 3)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calotype.coding import SYMBOL_LIMIT, Decoder, Encoder
from calotype.errors import DamagedFile, InexactRuntime
from calotype.hyper import Z_LIMIT
from calotype.quantise import Quantiser
from calotype.runtime import Runtime
from calotype.steps import coded_of, parts_of
from calotype.tiling import padded

EIGHTH = np.float32(0.125)
CHECKSUM_BYTES = 4

Ints = NDArray[np.int32]
Indices = NDArray[np.uint8]


@dataclass(frozen=True)
class Latents:
    """What a tile's words stand for: z (k, a, b), and y (m, 4a, 4b) in units of 1/8."""

    z: NDArray[np.int16]
    y8: Ints

    @property
    def y_hat(self) -> NDArray[np.float32]:
        """The latent y in quantiser steps."""
        return self.y8.astype(np.float32) * EIGHTH

    def checksum(self) -> int:
        """CRC-32 over z as int16 and y8 as int32, little-endian."""
        z, y8 = np.ascontiguousarray(self.z, "<i2"), np.ascontiguousarray(self.y8, "<i4")
        return zlib.crc32(y8.data, zlib.crc32(z.data))


@dataclass(frozen=True)
class Chosen:
    """What an encoder chose for a tile: latents, and symbols (n,) with table indices (n,) of z and of each step.

    Attributes:
        skips: Whether all symbols under quiet tables are 0, so that the words may skip them.
    """

    latents: Latents
    parts: list[tuple[Ints, Indices]]
    skips: bool


def choose(
    runtime: Runtime,
    y: NDArray[np.float32],
    level: int,
    size_px: tuple[int, int],
    quantiser: Quantiser,
    z: NDArray[np.float32] | None = None,
) -> Chosen:
    """Choose the symbols of a tile.

    Args:
        runtime: The model's networks.
        y: Output of the analysis (m, 4a, 4b).
        level: 0..255.
        size_px: Height and width of the tile.
        quantiser: Chooses symbols for residuals.
        z: The hyper-latent (k, a, b), not yet rounded; that of the hyper-analysis if not given.
    """
    tables = runtime.bundle.tables
    z = runtime.hyper_analyse(y) if z is None else z
    z_hat, parts, skips = _choose_z(runtime, z, level)
    features = runtime.features(z_hat, level)
    y8 = np.zeros(y.shape, np.int32)
    layout = runtime.bundle.manifest.steps, *y.shape
    for t, (part, coded) in enumerate(zip(parts_of(*layout), coded_of(*layout, *size_px), strict=True)):
        values, index = runtime.step(t, features, y8)
        chosen = index[coded]
        mean = values[coded].astype(np.float32) * EIGHTH
        residual = (y.ravel()[part.elements[coded]] - mean).astype(np.float32, copy=False)
        symbols = np.clip(quantiser(residual, chosen, tables), -SYMBOL_LIMIT, SYMBOL_LIMIT)
        symbols, quiet = tables.quietened(symbols, chosen)
        skips &= quiet
        values[coded] += 8 * symbols
        y8.ravel()[part.elements] = values
        parts.append((symbols, chosen))
    return Chosen(Latents(z_hat, y8), parts, skips)


def _choose_z(
    runtime: Runtime, z: NDArray[np.float32], level: int
) -> tuple[NDArray[np.int16], list[tuple[Ints, Indices]], bool]:
    """Z as it is coded, the symbols and tables of its parts, and whether all under quiet tables are 0."""
    prior, tables = runtime.bundle.hyper_prior(level), runtime.bundle.tables
    z_hat = np.clip(np.rint(z), -Z_LIMIT, Z_LIMIT).astype(np.int32)
    parts: list[tuple[Ints, Indices]] = []
    skips = True
    for t, elements in enumerate(prior.parts(z_hat.shape)):
        mean, index = prior.of_part(t, z_hat)
        symbols, quiet = tables.quietened(z_hat.ravel()[elements] - mean, index)
        z_hat.ravel()[elements] = mean + symbols
        skips &= quiet
        parts.append((symbols, index))
    return z_hat.astype(np.int16), parts, skips


def words_of(runtime: Runtime, chosen: Chosen) -> bytes:
    """Latents' checksum and words of a tile."""
    encoder = Encoder(runtime.bundle.tables, skips=chosen.skips)
    for symbols, index in reversed(chosen.parts):
        encoder.push(symbols, index)
    return struct.pack("<I", chosen.latents.checksum()) + encoder.words()


def decode_tile(runtime: Runtime, data: memoryview, level: int, size_px: tuple[int, int]) -> Latents:
    """What `words_of` put into words.

    Raises:
        DamagedFile: If the words break a rule.
        InexactRuntime: If they do not, but the latents are not the encoder's.
    """
    if len(data) < CHECKSUM_BYTES:
        raise DamagedFile("a tile without latents")
    manifest = runtime.bundle.manifest
    rows, columns = padded(size_px[0]) // 64, padded(size_px[1]) // 64
    (checksum,) = struct.unpack("<I", data[:CHECKSUM_BYTES])
    decoder = Decoder(runtime.bundle.tables, data[CHECKSUM_BYTES:])
    z = _pop_z(runtime, decoder, level, (manifest.z_channels, rows, columns))
    try:
        latents = _pop_latents(runtime, decoder, level, size_px, z)
        decoder.finish()
    except DamagedFile as error:  # z needed no network and was sound, and the words' own checksum held
        raise _inexact() from error
    if latents.checksum() != checksum:
        raise _inexact()
    return latents


def _pop_z(runtime: Runtime, decoder: Decoder, level: int, shape: tuple[int, int, int]) -> Ints:
    prior = runtime.bundle.hyper_prior(level)
    z = np.zeros(shape, np.int32)
    for t, elements in enumerate(prior.parts(shape)):
        mean, index = prior.of_part(t, z)
        z.ravel()[elements] = mean + decoder.pop(index)
    if np.abs(z).max() > Z_LIMIT:
        raise DamagedFile(f"z reaches {np.abs(z).max()}, beyond {Z_LIMIT}")
    return z


def _pop_latents(runtime: Runtime, decoder: Decoder, level: int, size_px: tuple[int, int], z: Ints) -> Latents:
    manifest = runtime.bundle.manifest
    shape = (manifest.y_channels, 4 * z.shape[1], 4 * z.shape[2])
    features = runtime.features(z.astype(np.int16), level)
    y8 = np.zeros(shape, np.int32)
    layout = manifest.steps, *shape
    for t, (part, coded) in enumerate(zip(parts_of(*layout), coded_of(*layout, *size_px), strict=True)):
        values, index = runtime.step(t, features, y8)
        values[coded] += 8 * decoder.pop(index[coded])
        y8.ravel()[part.elements] = values
    return Latents(z.astype(np.int16), y8)


def _inexact() -> InexactRuntime:
    return InexactRuntime(
        "the file is whole, but this machine computed other latents than the encoder: its runtime is not exact. "
        "Run onnxruntime's CPU provider in float32, and report this"
    )
