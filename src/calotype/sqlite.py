"""The SQLite file of an archive, opened with care: what it is, its journal, and its locks (SPEC.md, section 9)."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from calotype.errors import DamagedFile, InputError, NotCalotype, UnsupportedFile

SQLITE_MAGIC = b"SQLite format 3\0"
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
APPLICATION_ID = 0x0CA10D5E
VERSION = 1
_BUSY_S = 10.0


@contextmanager
def errors_of(path: Path) -> Generator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise InputError(f"{path}: another program writes to this archive: try again later") from error
        raise DamagedFile(f"{path}: the archive cannot be read or written: {error}") from error
    except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path}: the archive is damaged: {error}") from error


@contextmanager
def errors_of_writing(path: Path) -> Generator[None]:
    """The same of a writer, to whom a disk that is full or fails is no damage to the archive."""
    with errors_of(path):
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "I/O" in str(error):
                raise OSError(errno.EIO, f"cannot be written: {error}", str(path)) from error
            raise


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """SQLite's connection to a file, `mode` 'ro' or 'rw', that trusts nothing in it."""
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "synchronous = EXTRA"):
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


def journal_of(path: Path) -> Path:
    """Where SQLite keeps what it needs to take an unfinished change back."""
    return Path(f"{path}-journal")


def _recover(path: Path) -> None:
    """Let SQLite take back the last change of a writer that was killed, if its journal lies beside the file.

    A journal may end in the name of another file and this magic. SQLite would delete that file, whichever it is.
    """
    journal = journal_of(path)
    if not os.path.lexists(journal):
        return
    if journal.is_symlink() or not journal.is_file():
        raise DamagedFile(f"{journal}: no journal of an archive")
    with suppress(FileNotFoundError), journal.open("rb") as stream:  # a writer at work deletes it
        stream.seek(max(0, journal.stat().st_size - len(JOURNAL_MAGIC)))
        if stream.read() == JOURNAL_MAGIC:
            raise DamagedFile(f"{journal}: the journal names another file: it is of no archive, or means harm")
    with closing(connect(path, "rw")) as recovering:
        recovering.execute("SELECT count(*) FROM sqlite_schema").fetchone()


_opening = threading.Lock()
_held: Counter[tuple[int, int]] = Counter()
"""Files that this process has open, by device and inode. A descriptor of our own on one of them must not be closed:
that would drop all locks that SQLite holds on it (POSIX fcntl)."""


def _after_fork() -> None:
    """Begin with an open lock: whichever thread held it did not come along."""
    global _opening
    _opening = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def hold(path: Path) -> tuple[int, int]:
    """Check and recover a file that SQLite is to open next; undone by `release`."""
    with _opening:
        status = path.stat()
        key = status.st_dev, status.st_ino
        if not _held[key]:
            _check_start(path)
        with errors_of(path):
            _recover(path)
        if not _held[key]:
            _check_start(path)
        _held[key] += 1
    return key


def release(key: tuple[int, int]) -> None:
    """Say that SQLite has closed what `hold` was called for."""
    with _opening:
        _held[key] -= 1
        if not _held[key]:
            del _held[key]
