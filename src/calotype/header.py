"""Bytes <-> the header of a file (SPEC.md, section 1.1)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from calotype.errors import DamagedFile, LimitExceeded, NotCalotype, UnsupportedFile
from calotype.wire import Reader, pack_varint

MAGIC = b"\xca\x10\r\n"
VERSION = 1
MAX_SIDE_PX = (1 << 24) - 1
MAX_FORMAT_PIXELS = 1 << 40
MAX_TILE_UNITS = 16
MAX_CHANNELS = 16
TILE_UNIT_PX = 64
MODEL_ID_BYTES = 8
TOP_LEVEL = 255
SRGB = (1, 13, 0, 1)

_LOSSLESS, _ALPHA, _COLOUR = 1, 2, 4


@dataclass(frozen=True)
class Coding:
    """How the tiles of a file that is not lossless are coded: by which model, for which head, at which level."""

    model_id: bytes
    head: int
    level: int


@dataclass(frozen=True)
class Header:
    """What a file says of its picture.

    Attributes:
        width: Pixels, 1 to 2^24 - 1.
        height: Pixels, 1 to 2^24 - 1.
        channels: Colour channels, 1 to 16; alpha is not counted.
        depth: Bits of a sample, 8 or 16.
        alpha: Whether each tile carries alpha as well.
        tile_px: Side of a tile, a multiple of 64 up to 1024.
        coding: The model and its level, or None if the picture is stored losslessly.
        cicp: Colour code points of ITU-T H.273: primaries, transfer, matrix, full range.
    """

    width: int
    height: int
    channels: int
    depth: int
    alpha: bool
    tile_px: int
    coding: Coding | None
    cicp: tuple[int, int, int, int] = SRGB

    @property
    def tile_rows(self) -> int:
        """Tiles from top to bottom."""
        return -(-self.height // self.tile_px)

    @property
    def tile_columns(self) -> int:
        """Tiles from left to right."""
        return -(-self.width // self.tile_px)

    @property
    def tile_count(self) -> int:
        """Tiles in all."""
        return self.tile_rows * self.tile_columns


def pack_header(header: Header) -> bytes:
    """The bytes of a header, its crc last."""
    coded, coloured = header.coding is not None, header.cicp != SRGB
    flags = (0 if coded else _LOSSLESS) | (_ALPHA if header.alpha else 0) | (_COLOUR if coloured else 0)
    out = MAGIC + bytes([VERSION, flags]) + pack_varint(header.width) + pack_varint(header.height)
    out += bytes([(header.depth - 1) << 4 | (header.channels - 1), 0, header.tile_px // TILE_UNIT_PX])
    if header.coding is not None:
        out += header.coding.model_id + bytes([header.coding.head, header.coding.level])
    if coloured:
        out += bytes(header.cicp)
    return out + struct.pack("<I", zlib.crc32(out))


def _side_px(reader: Reader, what: str) -> int:
    side = reader.varint(what)
    if not 1 <= side <= MAX_SIDE_PX:
        raise DamagedFile(f"{what} is {side}, not within 1..{MAX_SIDE_PX}")
    return side


def read_header(reader: Reader) -> tuple[Header, int]:
    """The header with which a file begins, and its crc.

    Raises:
        FormatError: If there is no sound one.
    """
    if bytes(reader.data[: len(MAGIC)]) != MAGIC:
        raise NotCalotype(f"not a calotype file: it does not begin with {MAGIC.hex(' ')}")
    reader.take(len(MAGIC), "magic")
    if (version := reader.u8("version")) != VERSION:
        raise UnsupportedFile(f"format version {version}; this reader knows version {VERSION}: update calotype")
    flags = reader.u8("flags")
    width, height = _side_px(reader, "width"), _side_px(reader, "height")
    samples, mapping, tile_units = reader.take(3, "sample description")
    coding = None
    if not flags & _LOSSLESS:
        model_id = bytes(reader.take(MODEL_ID_BYTES, "model id"))
        coding = Coding(model_id, reader.u8("head"), reader.u8("level"))
    cicp = SRGB
    if flags & _COLOUR:
        primaries, transfer, matrix, full_range = reader.take(4, "colour")
        cicp = (primaries, transfer, matrix, full_range)
    end = reader.at
    crc = reader.u32("header checksum")
    if crc != zlib.crc32(reader.data[:end]):
        raise DamagedFile("the header's checksum does not hold: the file was changed")
    channels, depth = (samples & 15) + 1, (samples >> 4) + 1
    if width * height > MAX_FORMAT_PIXELS:
        raise LimitExceeded(f"{width}x{height} pixels are over the format's limit of {MAX_FORMAT_PIXELS}")
    if flags >> 3 or mapping or depth not in (8, 16) or cicp[2:] != (0, 1):
        raise UnsupportedFile(f"flags {flags}, mapping {mapping}, depth {depth}, colour {cicp}: update calotype")
    if not 1 <= tile_units <= MAX_TILE_UNITS:
        raise DamagedFile(f"tile is {tile_units}, not within 1..{MAX_TILE_UNITS}")
    alpha = bool(flags & _ALPHA)
    return Header(width, height, channels, depth, alpha, tile_units * TILE_UNIT_PX, coding, cicp), crc


def unpack_header(data: bytes | memoryview) -> Header:
    """The header alone.

    Raises:
        FormatError: If the bytes do not begin with a sound header.
    """
    return read_header(Reader(data))[0]
