from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calotype import container
from calotype.container import Metadata, pack, unpack
from calotype.errors import DamagedFile, FormatError, InputError, LimitExceeded, NotCalotype, UnsupportedFile
from calotype.header import MAGIC, Coding, Header
from calotype.wire import Reader, pack_varint

CODING = Coding(b"\x01\x02\x03\x04\x05\x06\x07\x08", 0, 153)
HEADER = Header(300, 200, 3, 8, False, 512, CODING)


def test_literal_bytes() -> None:
    """The layout of SPEC.md, byte for byte."""
    data = pack(HEADER, {}, [b"tile"])
    head = bytes.fromhex("ca100d0a 01 00 ac02 c801 72 00 08 0102030405060708 00 99")
    crc = struct.pack("<I", zlib.crc32(head))
    body = b"\x82\x04tile"
    assert data == head + crc + body + struct.pack("<I", zlib.crc32(crc + bytes(4) + body))


def test_overhead_is_at_most_48_bytes() -> None:
    assert len(pack(Header(16383, 16383, 3, 8, False, 1024, CODING), {}, [b""] * 256)) > 0
    assert len(pack(HEADER, {}, [b""])) <= 48 - 4 - 8  # latents' checksum and rANS state come on top


headers = st.builds(
    Header,
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    channels=st.integers(1, 16),
    depth=st.sampled_from([8, 16]),
    alpha=st.booleans(),
    tile_px=st.integers(1, 16).map(lambda n: 64 * n),
    coding=st.none() | st.builds(Coding, st.binary(min_size=8, max_size=8), st.integers(0, 255), st.integers(0, 255)),
    cicp=st.tuples(st.integers(0, 255), st.integers(0, 255), st.just(0), st.just(1)),
)


@given(headers, st.dictionaries(st.sampled_from(Metadata), st.binary(max_size=200)), st.binary(max_size=64))
def test_round_trip(header: Header, metadata: dict[Metadata, bytes], tile: bytes) -> None:
    tiles = [tile + bytes([i % 256]) for i in range(header.tile_count)]
    whole = unpack(pack(header, metadata, tiles))
    assert (whole.header, whole.metadata, [bytes(t) for t in whole.tiles]) == (header, metadata, tiles)


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    for data in (noise, MAGIC + noise, MAGIC + b"\x01" + noise):
        with pytest.raises(FormatError):
            unpack(data)


def test_every_truncation_and_any_extension_is_refused() -> None:
    data = pack(HEADER, {Metadata.EXIF: b"x" * 50}, [b"tile" * 9])
    for size in range(len(data)):
        with pytest.raises(FormatError):
            unpack(data[:size])
    with pytest.raises(DamagedFile, match="after the end"):
        unpack(data + b"\0")


def test_every_bit_flip_is_refused() -> None:
    data = pack(Header(700, 200, 3, 8, True, 512, CODING), {Metadata.XMP: b"<x/>"}, [b"a" * 20, b"b" * 20])
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            unpack(bytes(flipped))


def test_swapped_tiles_are_noticed() -> None:
    data = pack(Header(700, 200, 3, 8, False, 512, CODING), {}, [b"a" * 20, b"b" * 20])
    first, second = data[-52:-26], data[-26:]
    with pytest.raises(DamagedFile):
        unpack(data[:-52] + second[:1].replace(b"\x82", b"\x02") + second[1:] + b"\x82" + first[1:])


def _with_header(head: bytes) -> bytes:
    return head + struct.pack("<I", zlib.crc32(head)) + bytes(100)


@pytest.mark.parametrize(
    ("head", "error"),
    [
        ("89504e47 01 00 0101 72 00 08", NotCalotype),
        ("ca100d0a 02 01 0101 72 00 08", UnsupportedFile),  # version
        ("ca100d0a 01 09 0101 72 00 08", UnsupportedFile),  # flag
        ("ca100d0a 01 01 0101 72 01 08", UnsupportedFile),  # mapping
        ("ca100d0a 01 01 0101 92 00 08", UnsupportedFile),  # depth 10
        ("ca100d0a 01 05 0101 72 00 08 010d0101", UnsupportedFile),  # matrix
        ("ca100d0a 01 01 0001 72 00 08", DamagedFile),  # width 0
        ("ca100d0a 01 01 8000 01 72 00 08", DamagedFile),  # varint too long
        ("ca100d0a 01 01 ffffffff7f 01 72 00 08", DamagedFile),  # too wide
        ("ca100d0a 01 01 0101 72 00 00", DamagedFile),  # tile 0
        ("ca100d0a 01 01 0101 72 00 11", DamagedFile),  # tile 17
    ],
)
def test_fields_out_of_range(head: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        unpack(_with_header(bytes.fromhex(head)))


def test_absurd_sizes_cost_nothing() -> None:
    head = bytes.fromhex("ca100d0a 01 01 808040 808040 72 00 01")
    with pytest.raises(DamagedFile, match="cannot stand"):
        unpack(_with_header(head))
    with pytest.raises(LimitExceeded, match="format's limit"):
        unpack(_with_header(bytes.fromhex("ca100d0a 01 01 ffffff07 ffffff07 72 00 01")))
    with pytest.raises(LimitExceeded):
        unpack(_with_header(head), max_pixels=1 << 28)


def test_metadata_bomb_is_refused() -> None:
    bomb = zlib.compress(bytes(container.MAX_METADATA_BYTES + 1), 9)
    honest = pack(HEADER, {Metadata.ICC: b"i"}, [b"tile"])
    head = honest[: len(pack(HEADER, {}, [b"tile"])) - 10]
    crc = head[-4:]

    def chunk(kind: int, payload: bytes, ordinal: int) -> bytes:
        body = bytes([kind]) + pack_varint(len(payload)) + payload
        return body + struct.pack("<I", zlib.crc32(crc + struct.pack("<I", ordinal) + body))

    with pytest.raises(LimitExceeded):
        unpack(head + chunk(0x42, bomb, 0) + chunk(0x82, b"tile", 1))
    with pytest.raises(DamagedFile, match="one whole"):
        unpack(head + chunk(0x42, zlib.compress(b"x") + b"y", 0) + chunk(0x82, b"tile", 1))
    with pytest.raises(DamagedFile, match="twice"):
        unpack(head + chunk(0x7F, b"", 0) + chunk(0x7F, b"", 1) + chunk(0x82, b"tile", 2))
    with pytest.raises(UnsupportedFile):
        unpack(head + chunk(0x3F, b"", 0) + chunk(0x82, b"tile", 1))
    assert unpack(head + chunk(0x7F, b"?", 0) + chunk(0x82, b"tile", 1)).metadata == {}


def test_metadata_over_the_limit_is_not_written() -> None:
    with pytest.raises(InputError, match="strip"):
        pack(HEADER, {Metadata.EXIF: bytes(container.MAX_METADATA_BYTES + 1)}, [b""])


@given(st.integers(0, 2**35 - 1))
def test_varint(value: int) -> None:
    assert Reader(pack_varint(value)).varint("value") == value
