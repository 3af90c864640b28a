"""The rows of a `.caloset` archive in their SQLite file (SPEC.md, section 9).

What the rows hold is no concern of this module.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from calotype.errors import DamagedFile, InputError, LimitExceeded, NotCalotype, UnsupportedFile

SQLITE_MAGIC = b"SQLite format 3\0"
APPLICATION_ID = 0x0CA10D5E
VERSION = 1
PAGE_BYTES = 1024
"""Small, since half a page is lost with every row; not smaller, since every page loses four bytes."""
MAX_ROW_BYTES = 1 << 30
MAX_ROWS = 1 << 24
_BUSY_S = 10.0

_SCHEMA = {
    "item": (
        "CREATE TABLE item (ordinal INTEGER PRIMARY KEY, kind INTEGER NOT NULL, images INTEGER NOT NULL, "
        "crc INTEGER NOT NULL, names BLOB NOT NULL, data BLOB NOT NULL)"
    ),
    "meta": "CREATE TABLE meta (items INTEGER NOT NULL, images INTEGER NOT NULL, hash BLOB NOT NULL)",
}
_START = bytes(32)


@dataclass(frozen=True)
class Item:
    """A row without its data.

    Attributes:
        ordinal: From 0, without gaps.
        kind: What it is.
        images: How many images are in it.
        crc: CRC-32 over all of it.
        names: What the images are called, in a form that depends on the kind.
        data_bytes: Size of its data.
    """

    ordinal: int
    kind: int
    images: int
    crc: int
    names: bytes
    data_bytes: int


@dataclass(frozen=True)
class Totals:
    """What `meta` says of all rows: their number, that of their images, and the running hash."""

    items: int
    images: int
    hash: bytes

    def after(self, images: int, crc: int) -> Totals:
        """With one more row."""
        running = hashlib.sha256(self.hash + struct.pack("<I", crc)).digest()
        return Totals(self.items + 1, self.images + images, running)


def checksum(ordinal: int, kind: int, images: int, names: bytes, data: bytes) -> int:
    """CRC-32 of a row."""
    start = struct.pack("<QQQQ", ordinal, kind, images, len(names))
    return zlib.crc32(data, zlib.crc32(names, zlib.crc32(start)))


@contextmanager
def _errors(path: Path) -> Generator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise InputError(f"{path}: another program writes to this archive: try again later") from error
        raise DamagedFile(f"{path}: the archive cannot be read or written: {error}") from error
    except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path}: the archive is damaged: {error}") from error


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _check_start(path: Path) -> None:
    """Refuse what is no archive before SQLite sees it."""
    with path.open("rb") as stream:
        start = stream.read(100)
    if len(start) < 100 or start[:16] != SQLITE_MAGIC or start[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        raise NotCalotype(f"{path}: not a calotype archive")
    version = int.from_bytes(start[60:64], "big")
    if version != VERSION:
        raise UnsupportedFile(f"{path}: archive version {version}; this version knows {VERSION}: update calotype")
    if start[18:20] != b"\x01\x01":
        raise DamagedFile(f"{path}: the archive is in a mode that archives do not use (write-ahead log)")


class Vessel:
    """An archive's rows.

    Schema, count and running hash of all rows are checked when it is opened, the data of a row when it is read.

    Args:
        path: The file.
        writable: Whether rows may be added.

    Raises:
        FormatError: If the file breaks a rule.
        InputError: If another program holds it.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        _check_start(path)
        with _errors(path):
            if Path(f"{path}-journal").exists():  # left by a writer that was killed: SQLite takes its last change back
                with closing(_connect(path, "rw")) as recovering:
                    recovering.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            self._connection = _connect(path, "rw" if writable else "ro")
        try:
            with _errors(path):
                self._connection.execute("BEGIN")
                self._check_schema()
                self.items = list(self._scan())
                self.totals = self._check_totals()
                self._connection.execute("COMMIT")
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Vessel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        return self._connection.execute(query, values)

    def _check_schema(self) -> None:
        found = {name: (kind, sql) for kind, name, sql in self._rows("SELECT type, name, sql FROM sqlite_schema")}
        if found != {name: ("table", sql) for name, sql in _SCHEMA.items()}:
            raise DamagedFile(f"{self.path}: the archive's tables are not those of version {VERSION}")

    def _scan(self) -> Iterator[Item]:
        query = "SELECT ordinal, kind, images, crc, names, length(data), typeof(data) FROM item ORDER BY ordinal"
        for place, (*numbers, names, data_bytes, data_type) in enumerate(self._rows(query)):
            if not all(type(n) is int and n >= 0 for n in numbers) or type(names) is not bytes or data_type != "blob":
                raise DamagedFile(f"{self.path}: row {place} holds values of the wrong type")
            ordinal, kind, images, crc = numbers
            if place >= MAX_ROWS or max(data_bytes, len(names)) > MAX_ROW_BYTES or max(images, crc) >= 1 << 32:
                raise LimitExceeded(f"{self.path}: row {place} is one too many or too large")
            if ordinal != place:
                raise DamagedFile(f"{self.path}: row {place} is missing")
            yield Item(ordinal, kind, images, crc, names, data_bytes)

    def _check_totals(self) -> Totals:
        counted = Totals(0, 0, _START)
        for item in self.items:
            counted = counted.after(item.images, item.crc)
        stated = list(self._rows("SELECT items, images, hash FROM meta"))
        if stated != [(counted.items, counted.images, counted.hash)]:
            raise DamagedFile(f"{self.path}: rows were lost or changed: count or running hash do not hold")
        return counted

    def data(self, item: Item) -> bytes:
        """The data of a row.

        Raises:
            DamagedFile: If the row's checksum does not hold.
        """
        with _errors(self.path):
            found = list(self._rows("SELECT data FROM item WHERE ordinal = ?", item.ordinal))
        data = found[0][0] if found else b""
        if type(data) is not bytes or checksum(item.ordinal, item.kind, item.images, item.names, data) != item.crc:
            raise DamagedFile(f"{self.path}: the checksum of row {item.ordinal} does not hold")
        return data

    def add(self, kind: int, images: int, names: bytes, data: bytes) -> Item:
        """Add a row. When this returns, the row is on disk and stays there, whatever happens.

        Raises:
            LimitExceeded: If there are too many rows, or it is too large.
        """
        ordinal = self.totals.items
        if ordinal >= MAX_ROWS or max(len(data), len(names)) > MAX_ROW_BYTES:
            raise LimitExceeded(f"{self.path}: an archive holds {MAX_ROWS} rows of {MAX_ROW_BYTES} bytes at most")
        crc = checksum(ordinal, kind, images, names, data)
        totals = self.totals.after(images, crc)
        with _errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                stated = next(self._rows("SELECT hash FROM meta"))
                if stated != (self.totals.hash,):
                    raise InputError(f"{self.path}: another program has added to this archive")
                self._rows("INSERT INTO item VALUES (?, ?, ?, ?, ?, ?)", ordinal, kind, images, crc, names, data)
                self._rows("UPDATE meta SET items = ?, images = ?, hash = ?", totals.items, totals.images, totals.hash)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        item = Item(ordinal, kind, images, crc, names, len(data))
        self.items.append(item)
        self.totals = totals
        return item


def create(path: Path) -> Vessel:
    """A new, empty archive, opened for writing.

    Raises:
        FileExistsError: If the file exists.
    """
    if os.path.lexists(path) or os.path.lexists(f"{path}-journal"):
        raise FileExistsError(f"{path} exists")
    fresh = path.with_name(f".{path.name}.unfinished")
    fresh.unlink(missing_ok=True)
    fresh.touch()
    try:
        with _errors(path):
            connection = _connect(fresh, "rw")
            for pragma in (
                f"page_size = {PAGE_BYTES}",
                f"application_id = {APPLICATION_ID}",
                f"user_version = {VERSION}",
            ):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("BEGIN")
            for sql in _SCHEMA.values():
                connection.execute(sql)
            connection.execute("INSERT INTO meta VALUES (0, 0, ?)", (_START,))
            connection.execute("COMMIT")
            connection.close()
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)
    return Vessel(path, writable=True)
