"""Random changes of bytes, and repairs of the checksums that would give them away."""

from __future__ import annotations

import random
import sqlite3
import struct
import tempfile
import zipfile
import zlib
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path

from calotype import bundle
from calotype.vessel import Totals, checksum
from calotype.wire import Reader

VALUES = [b"\0", b"\1", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\x0f", b"\xff\xff\xff\x7f", b"-1", b"1e9", b"null"]


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    """A place and the end of a short or, at times, long stretch from there."""
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 1, 2, 4, 16, 256)))


def flip(data: bytes, rng: random.Random) -> bytes:
    """Flip one bit."""
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def delete(data: bytes, rng: random.Random) -> bytes:
    """Leave out a stretch."""
    start, stop = _span(data, rng)
    return data[:start] + data[stop:]


def insert(data: bytes, rng: random.Random) -> bytes:
    """Put in random bytes, or a stretch from elsewhere."""
    start, stop = _span(data, rng)
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((rng.randbytes(stop - start), data[start:stop])) + data[at:]


def swap(data: bytes, rng: random.Random) -> bytes:
    """Let two stretches change places."""
    a, b, c, d = sorted((*_span(data, rng), *_span(data, rng)))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def truncate(data: bytes, rng: random.Random) -> bytes:
    """Cut the end off."""
    return data[: rng.randrange(len(data))]


def overwrite(data: bytes, rng: random.Random) -> bytes:
    """Write a value of which readers are afraid."""
    at, value = rng.randrange(len(data)), rng.choice(VALUES)
    return data[:at] + value + data[at + len(value) :]


PLAIN = (flip, delete, insert, swap, truncate)


def mutate(data: bytes, rng: random.Random, kinds: tuple = (*PLAIN, overwrite)) -> bytes:
    """One to three changes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(kinds)(data, rng) if data else rng.randbytes(4)
    return data


def _header_bytes(data: bytes) -> int:
    """Where the checksum of a `.calo` header stands."""
    reader = Reader(data)
    flags = reader.take(6, "start")[5]
    reader.varint("width"), reader.varint("height")
    return reader.at + 3 + (0 if flags & 1 else 10) + (4 if flags & 4 else 0)


def resigned(data: bytes) -> bytes:
    """A `.calo` file whose checksums hold again, as far as its lengths lead."""
    out = bytearray(data)
    with suppress(Exception):
        end = _header_bytes(data)
        header_crc = zlib.crc32(out[:end])
        out[end : end + 4] = struct.pack("<I", header_crc)
        at, ordinal = end + 4, 0
        while at < len(out):
            reader = Reader(bytes(out), at + 1)
            reader.take(reader.varint("length"), "payload")
            start, at = at, reader.at + 4
            body = struct.pack("<II", header_crc, ordinal) + out[start : reader.at]
            out[reader.at : at] = struct.pack("<I", zlib.crc32(body))
            ordinal += 1
    return bytes(out)


def changed_member(data: bytes, rng: random.Random) -> bytes:
    """A model file with one member changed, and its checksum right."""
    with suppress(Exception):
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        if members:
            name = rng.choice(sorted(members))
            return bundle.serialise(members | {name: mutate(members[name], rng)})
    return mutate(data, rng)


def changed_row(data: bytes, rng: random.Random) -> bytes:
    """An archive with one row changed, and all checksums right."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.caloset"
        path.write_bytes(data)
        with suppress(Exception):  # what is broken already is changed as it is
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                _change_row(connection, rng)
            return path.read_bytes()
    return mutate(data, rng)


def _change_row(connection: sqlite3.Connection, rng: random.Random) -> None:
    totals = Totals(0, 0, bytes(32))
    rows = connection.execute("SELECT ordinal, kind, images, names, data FROM item ORDER BY ordinal").fetchall()
    chosen = rng.choice(rows)[0]
    for ordinal, kind, images, names, data in rows:
        if ordinal == chosen:
            part = rng.randrange(5)
            kind = rng.randrange(6) if part == 0 else kind
            images = rng.choice((0, 1, 2, 4, 65536)) if part == 1 else images
            names = zlib.compress(mutate(zlib.decompress(names), rng)) if part == 2 and names[:1] == b"x" else names
            data = changed_payload(data, rng) if part >= 3 else data
        crc = checksum(ordinal, kind, images, names, data)
        totals = totals.after(images, crc)
        values = (kind, images, crc, names, data, ordinal)
        connection.execute(
            "UPDATE item SET kind = ?, images = ?, crc = ?, names = ?, data = ? WHERE ordinal = ?", values
        )
    connection.execute("UPDATE meta SET items = ?, images = ?, hash = ?", (totals.items, totals.images, totals.hash))


def changed_payload(data: bytes, rng: random.Random) -> bytes:
    """What lies in a row, changed."""
    if data[:2] == b"PK":
        return changed_member(data, rng)
    return resigned(mutate(data, rng))


def signed(name: str, data: bytes, rng: random.Random) -> bytes:
    """Bytes for a target, changed where plain changes would only break a checksum."""
    if name == "bundle":
        return changed_member(data, rng)
    if name == "archive":
        return changed_row(data, rng)
    return resigned(mutate(data, rng))
