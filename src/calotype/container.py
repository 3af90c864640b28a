"""Bytes <-> header and chunks (SPEC.md, section 1.2). Knows nothing of pictures or models."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum

from calotype.errors import DamagedFile, InputError, LimitExceeded, UnsupportedFile
from calotype.header import Header, pack_header, read_header
from calotype.wire import Reader, pack_varint

MAX_PAYLOAD_BYTES = 1 << 30
MAX_METADATA_BYTES = 1 << 24
LEAST_TILE_BYTES = 7

_LAST, _ANCILLARY, _KIND = 0x80, 0x40, 0x3F
_INDEX, _TILE = 1, 2
_POSTFILTER = 4


class Metadata(IntEnum):
    """Kinds of ancillary chunks."""

    EXIF = 1
    ICC = 2
    XMP = 3


@dataclass(frozen=True)
class Container:
    """A file taken apart. The checksum of every chunk in it held; payloads are views into the file's bytes.

    Attributes:
        header: What the file says of its picture.
        metadata: Metadata, inflated.
        postfilter: The weights of the filter after synthesis, packed; empty if there is none.
        tiles: Payloads in raster order; those of tiles that were not asked for are empty.
    """

    header: Header
    metadata: dict[Metadata, bytes]
    postfilter: memoryview
    tiles: tuple[memoryview, ...]


_KNOWN_METADATA = frozenset(map(int, Metadata))


def _chunk(kind: int, payload: bytes, header_crc: int, ordinal: int) -> bytes:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise InputError(f"a chunk of {len(payload)} bytes; the format holds at most {MAX_PAYLOAD_BYTES}")
    body = bytes([kind]) + pack_varint(len(payload)) + payload
    return body + struct.pack("<I", _chunk_crc(body, header_crc, ordinal))


def _chunk_crc(body: bytes | memoryview, header_crc: int, ordinal: int) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack("<II", header_crc, ordinal)))


def pack(header: Header, metadata: dict[Metadata, bytes], tiles: Sequence[bytes], postfilter: bytes = b"") -> bytes:
    """The bytes of a file.

    Raises:
        InputError: If a metadata block or tile is larger than the format holds.
    """
    head = pack_header(header)
    crc = int(struct.unpack("<I", head[-4:])[0])
    chunks: list[bytes] = []
    for kind, block in metadata.items():
        if len(block) > MAX_METADATA_BYTES:
            raise InputError(f"{kind.name} has {len(block)} bytes; the limit is {MAX_METADATA_BYTES}: strip it")
        chunks.append(_chunk(_ANCILLARY | kind, zlib.compress(block, 9), crc, len(chunks)))
    if postfilter:
        chunks.append(_chunk(_ANCILLARY | _POSTFILTER, postfilter, crc, len(chunks)))
    first = len(chunks) + (len(tiles) > 1)
    kinds = [_TILE] * (len(tiles) - 1) + [_TILE | _LAST]
    coded = [_chunk(kind, t, crc, first + i) for i, (kind, t) in enumerate(zip(kinds, tiles, strict=True))]
    if len(tiles) > 1:
        chunks.append(_chunk(_INDEX, b"".join(pack_varint(len(c)) for c in coded), crc, len(chunks)))
    return b"".join([head, *chunks, *coded])


def _inflate(kind: Metadata, payload: memoryview) -> bytes:
    inflater = zlib.decompressobj()
    try:
        block = inflater.decompress(payload, MAX_METADATA_BYTES)
        if inflater.unconsumed_tail or (not inflater.eof and inflater.decompress(b"", 1)):
            raise LimitExceeded(f"{kind.name} inflates to more than {MAX_METADATA_BYTES} bytes")
    except zlib.error as error:
        raise DamagedFile(f"{kind.name} is not a zlib stream: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise DamagedFile(f"{kind.name} is not one whole zlib stream")
    return block


@dataclass(frozen=True)
class _Chunk:
    type: int
    payload: memoryview
    size_bytes: int


class _ChunkReader:
    """Takes chunks in order and checks each one's checksum, into which the header and its place enter."""

    def __init__(self, reader: Reader, header_crc: int) -> None:
        self.reader, self._crc, self._ordinal = reader, header_crc, 0

    def take(self) -> _Chunk:
        """The next chunk."""
        reader, what = self.reader, f"chunk {self._ordinal}"
        start = reader.at
        kind, length = reader.u8(what), reader.varint(f"length of {what}")
        if length > MAX_PAYLOAD_BYTES:
            raise DamagedFile(f"{what} declares {length} bytes; the limit is {MAX_PAYLOAD_BYTES}")
        payload = reader.take(length, what)
        body = reader.data[start : reader.at]
        if reader.u32(f"checksum of {what}") != _chunk_crc(body, self._crc, self._ordinal):
            raise DamagedFile(f"the checksum of {what} does not hold: the file was changed")
        self._ordinal += 1
        return _Chunk(kind, payload, reader.at - start)

    def skip(self, size_bytes: int) -> None:
        """Leave the next chunk, of a known size, unread."""
        self.reader.take(size_bytes, f"chunk {self._ordinal}")
        self._ordinal += 1


def _take_ancillary(chunks: _ChunkReader) -> tuple[dict[Metadata, bytes], memoryview, _Chunk]:
    """Metadata and post-filter, and the first chunk after all that is ancillary."""
    metadata: dict[Metadata, bytes] = {}
    postfilter = memoryview(b"")
    seen: set[int] = set()
    while (chunk := chunks.take()).type & _ANCILLARY:
        kind = chunk.type & _KIND
        if chunk.type & _LAST or kind in seen:
            raise DamagedFile(f"ancillary chunk {kind} is the last or stands twice")
        seen.add(kind)
        if kind in _KNOWN_METADATA:
            metadata[Metadata(kind)] = _inflate(Metadata(kind), chunk.payload)
        elif kind == _POSTFILTER:
            postfilter = chunk.payload
    return metadata, postfilter, chunk


def _read_index(chunk: _Chunk, tile_count: int, left: int) -> list[int]:
    """The sizes of all tiles' chunks, which fill the rest of the file."""
    _expect(chunk, _INDEX, "the index")
    index = Reader(chunk.payload)
    sizes = [index.varint("size of a tile") for _ in range(tile_count)]
    if index.left or sum(sizes) != left:
        raise DamagedFile(f"the index promises {sum(sizes)} bytes of tiles, {left} are left")
    return sizes


def _expect(chunk: _Chunk, wanted: int, what: str) -> None:
    if chunk.type == wanted:
        return
    if chunk.type & _KIND not in (_INDEX, _TILE):
        raise UnsupportedFile(
            f"a chunk of unknown kind {chunk.type & _KIND} is needed for this picture: update calotype"
        )
    raise DamagedFile(f"a chunk of type {chunk.type:#04x} stands where {what} should be")


def unpack(
    data: bytes | memoryview,
    max_pixels: int | None = None,
    wanted: Callable[[Header], Collection[int]] | None = None,
) -> Container:
    """Take a file apart, checking every byte of it that is used.

    Args:
        data: A whole file.
        max_pixels: Refuse pictures of more pixels than this.
        wanted: Which tiles of the picture to read, by number in raster order; all if not given. Others are left unread.

    Raises:
        FormatError: If any rule of the format is broken.
    """
    reader = Reader(data)
    header, crc = read_header(reader)
    pixels, count = header.width * header.height, header.tile_count
    if max_pixels is not None and pixels > max_pixels:
        raise LimitExceeded(f"{header.width}x{header.height} is {pixels} pixels, over the limit of {max_pixels}")
    if count * LEAST_TILE_BYTES > reader.left:
        raise DamagedFile(f"{count} tiles cannot stand in the {reader.left} bytes left: the file is cut")
    chosen = range(count) if wanted is None else wanted(header)
    chunks = _ChunkReader(reader, crc)
    metadata, postfilter, chunk = _take_ancillary(chunks)
    if count == 1:
        _expect(chunk, _TILE | _LAST, "tile 0")
        tiles = [chunk.payload]
    else:
        tiles = _take_tiles(chunks, _read_index(chunk, count, reader.left), chosen)
    if reader.left:
        raise DamagedFile(f"{reader.left} bytes stand after the end of the picture")
    return Container(header, metadata, postfilter, tuple(tiles))


def _take_tiles(chunks: _ChunkReader, sizes: list[int], wanted: Collection[int]) -> list[memoryview]:
    """The payloads of the wanted tiles, and an empty one for each of the others."""
    tiles, nothing = list[memoryview](), memoryview(b"")
    for i, size_bytes in enumerate(sizes):
        if i not in wanted:
            chunks.skip(size_bytes)
            tiles.append(nothing)
            continue
        chunk = chunks.take()
        _expect(chunk, _TILE | _LAST if i == len(sizes) - 1 else _TILE, f"tile {i}")
        if chunk.size_bytes != size_bytes:
            raise DamagedFile(f"tile {i} has another size than the index says")
        tiles.append(chunk.payload)
    return tiles
