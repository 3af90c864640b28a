"""The rows of a `.caloset` archive in their SQLite file (SPEC.md, section 9).

What the rows hold is no concern of this module.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from calotype.errors import DamagedFile, InputError, LimitExceeded
from calotype.sqlite import APPLICATION_ID, VERSION, connect, errors_of, errors_of_writing, hold, journal_of, release

PAGE_BYTES = 1024
"""Small, since half a page is lost with every row; not smaller, since every page loses four bytes."""
MAX_ROW_BYTES = 1 << 30
MAX_ROWS = 1 << 24
MAX_ROW_IMAGES, MAX_IMAGES = 1 << 16, 1 << 24

_SCHEMA = {
    "item": (
        "CREATE TABLE item (ordinal INTEGER PRIMARY KEY, kind INTEGER NOT NULL, images INTEGER NOT NULL, "
        "crc INTEGER NOT NULL, names BLOB NOT NULL, data BLOB NOT NULL)"
    ),
    "meta": "CREATE TABLE meta (items INTEGER NOT NULL, images INTEGER NOT NULL, hash BLOB NOT NULL)",
}
_START = bytes(32)
Opened = TypeVar("Opened", bound="Closable")
_SIZES = (
    "SELECT ordinal, kind, images, crc, CASE typeof(names) WHEN 'blob' THEN length(names) END, "
    "CASE typeof(data) WHEN 'blob' THEN length(data) END FROM item ORDER BY ordinal"
)
"""Reads no blob: several rows may share the pages of one, which makes a small file large."""


@dataclass(frozen=True, slots=True)
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


class Closable(ABC):
    """What a `with` statement closes at its end."""

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class Vessel(Closable):
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
        self.path = path.resolve()
        with ExitStack() as held:
            held.callback(release, hold(self.path))
            with errors_of(path):
                self._connection = held.enter_context(closing(connect(self.path, "rw" if writable else "ro")))
                self._rows("BEGIN")
                self._check_schema()
                self.items = self._scan()
                self.totals = self._check_totals()
                self._rows("COMMIT")
            self._held = held.pop_all()

    def close(self) -> None:
        """Close the file."""
        self._held.close()

    def _rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        return self._connection.execute(query, values)

    def _check_schema(self) -> None:
        found = sorted(self._rows("SELECT type, name, sql FROM sqlite_schema"), key=repr)
        if found != [("table", name, sql) for name, sql in _SCHEMA.items()]:
            raise DamagedFile(f"{self.path}: the archive's tables are not those of version {VERSION}")

    def _scan(self) -> list[Item]:
        sizes = list(self._sizes())
        names = self._rows("SELECT names FROM item ORDER BY ordinal")
        return [
            Item(ordinal, kind, images, crc, name, data_bytes)
            for (ordinal, kind, images, crc, data_bytes), (name,) in zip(sizes, names, strict=True)
        ]

    def _sizes(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Ordinal, kind, images, crc and size of the data of each row, all sizes checked."""
        file_bytes, used_bytes, all_images = self.path.stat().st_size, 0, 0
        for place, row in enumerate(self._rows(_SIZES)):
            if not all(type(n) is int and n >= 0 for n in row):
                raise DamagedFile(f"{self.path}: row {place} holds values of the wrong type")
            ordinal, kind, images, crc, names_bytes, data_bytes = row
            used_bytes, all_images = used_bytes + names_bytes + data_bytes, all_images + images
            if place >= MAX_ROWS or max(data_bytes, names_bytes) > MAX_ROW_BYTES or crc >= 1 << 32:
                raise LimitExceeded(f"{self.path}: row {place} is one too many or too large")
            if images > MAX_ROW_IMAGES or all_images > MAX_IMAGES:
                raise LimitExceeded(
                    f"{self.path}: row {place} declares {images} images; a row holds {MAX_ROW_IMAGES} at most, and an "
                    f"archive {MAX_IMAGES}"
                )
            if used_bytes > file_bytes:
                raise DamagedFile(f"{self.path}: rows of {used_bytes} bytes in a file of {file_bytes}")
            if ordinal != place:
                raise DamagedFile(f"{self.path}: row {place} is missing")
            yield ordinal, kind, images, crc, data_bytes

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
        with errors_of(self.path):
            found = list(self._rows("SELECT data FROM item WHERE ordinal = ?", item.ordinal))
        data = found[0][0] if found else b""
        if type(data) is not bytes or checksum(item.ordinal, item.kind, item.images, item.names, data) != item.crc:
            raise DamagedFile(f"{self.path}: the checksum of row {item.ordinal} does not hold")
        return data

    def add(self, kind: int, images: int, names: bytes, data: bytes) -> Item:
        """Add a row. When this returns, the row is on disk and stays there, whatever happens.

        Raises:
            LimitExceeded: If there are too many rows, or it is too large.
            OSError: If the disk is full. The archive keeps what it held, and the next row may fit.
        """
        ordinal = self.totals.items
        if ordinal >= MAX_ROWS or max(len(data), len(names)) > MAX_ROW_BYTES:
            raise LimitExceeded(f"{self.path}: an archive holds {MAX_ROWS} rows of {MAX_ROW_BYTES} bytes at most")
        if images > MAX_ROW_IMAGES or self.totals.images + images > MAX_IMAGES:
            raise LimitExceeded(
                f"{self.path}: a row holds {MAX_ROW_IMAGES} images at most, and an archive {MAX_IMAGES}"
            )
        crc = checksum(ordinal, kind, images, names, data)
        totals = self.totals.after(images, crc)
        with errors_of_writing(self.path):
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


def _take_place(fresh: Path, path: Path) -> None:
    """Give a file its name, unless another has it."""
    try:
        os.link(fresh, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        path.touch(exist_ok=False)
        fresh.replace(path)


def create(path: Path) -> Vessel:
    """A new, empty archive, opened for writing.

    Raises:
        FileExistsError: If the file, or a journal of its name, exists.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists")
    path = path.resolve()
    if os.path.lexists(journal_of(path)):
        raise FileExistsError(f"{journal_of(path)}: the journal of an archive that is gone is left: delete or move it")
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(8)}.unfinished")
    fresh.touch()
    try:
        with errors_of_writing(path):
            connection = connect(fresh, "rw")
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
        _take_place(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    return Vessel(path, writable=True)
