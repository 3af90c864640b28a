"""Archives that mean harm: files, journals and counts that no writer makes."""

from __future__ import annotations

import sqlite3
import struct
import subprocess
import sys
import threading
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import calotype
from calotype import sqlite, vessel
from calotype.archive import Archive, ArchiveWriter, Kind
from calotype.errors import DamagedFile, InputError, LimitExceeded
from calotype.vessel import Totals, Vessel, checksum


@pytest.fixture
def picture() -> bytes:
    return calotype.encode(np.arange(35, dtype=np.uint8).reshape(5, 7), lossless=True)


@pytest.fixture
def path(tmp_path: Path, picture: bytes) -> Path:
    """An archive of one picture."""
    with ArchiveWriter(tmp_path / "x.caloset") as writer:
        writer.add_picture("a", picture)
    return tmp_path / "x.caloset"


def _row(path: Path, kind: int, images: int, names: bytes, data: bytes) -> None:
    """Add a row as it is, past all checks of `Vessel.add`, so that sums and hashes hold."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        totals = Totals(*connection.execute("SELECT items, images, hash FROM meta").fetchone())
        crc = checksum(totals.items, kind, images, names, data)
        after = totals.after(images, crc)
        connection.execute("INSERT INTO item VALUES (?, ?, ?, ?, ?, ?)", (totals.items, kind, images, crc, names, data))
        connection.execute("UPDATE meta SET items = ?, images = ?, hash = ?", (after.items, after.images, after.hash))


def _naming_journal(path: Path, named: Path) -> bytes:
    """A journal that ends in the name of a super-journal, as writers of several files leave."""
    sector, pages = 512, path.stat().st_size // vessel.PAGE_BYTES
    start = sqlite.JOURNAL_MAGIC + struct.pack(">IIIII", 0, 1, pages, sector, vessel.PAGE_BYTES)
    name = str(named).encode()
    end = struct.pack(">I", (1 << 30) // vessel.PAGE_BYTES + 1) + name + struct.pack(">II", len(name), sum(name))
    return start.ljust(sector, b"\0") + end + sqlite.JOURNAL_MAGIC


@pytest.mark.parametrize("linked", [False, True])
def test_a_journal_deletes_no_other_file(path: Path, tmp_path: Path, linked: bool) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("no journal")
    Path(f"{path}-journal").write_bytes(_naming_journal(path, precious))
    if linked:
        (tmp_path / "link.caloset").symlink_to(path)
        path = tmp_path / "link.caloset"
    with pytest.raises(DamagedFile, match="names another file"):
        Vessel(path)
    assert precious.read_text() == "no journal"


def test_a_journal_that_is_no_file(path: Path) -> None:
    Path(f"{path}-journal").mkdir()
    with pytest.raises(DamagedFile, match="no journal"):
        Vessel(path)


@pytest.mark.parametrize("images", [[(1 << 32) - 1], [vessel.MAX_ROW_IMAGES + 1], [vessel.MAX_ROW_IMAGES] * 257])
def test_more_images_than_an_archive_holds(path: Path, images: list[int]) -> None:
    for count in images:
        _row(path, Kind.BITS_BACK, count, b"", b"x")
    with pytest.raises(LimitExceeded, match="images"):
        Vessel(path)


def test_a_writer_keeps_the_limits(path: Path) -> None:
    with Vessel(path, writable=True) as opened, pytest.raises(LimitExceeded):
        opened.add(Kind.BITS_BACK, vessel.MAX_ROW_IMAGES + 1, b"", b"x")


@pytest.mark.parametrize("kind", [Kind.MODEL, Kind.BITS_BACK])
def test_names_that_no_image_has(path: Path, kind: Kind) -> None:
    _row(path, kind, 0, zlib.compress(bytes(1 << 20)), b"x")
    with Archive(path) as archive, pytest.raises(DamagedFile, match="row 1"):
        print(archive.entries)


def _varint(number: int) -> bytes:
    """A number of three bytes as SQLite writes it."""
    return bytes([0x80 | number >> 14, 0x80 | number >> 7 & 0x7F, number & 0x7F])


def test_rows_that_say_more_than_the_file_holds(path: Path) -> None:
    """As when rows share pages: the sizes are checked, and no blob is read."""
    stored, declared = 20_000, 20_000 + 900 * (vessel.PAGE_BYTES - 4)
    with Vessel(path, writable=True) as opened:
        opened.add(Kind.BITS_BACK, 1, b"", bytes(stored))
    raw = path.read_bytes()
    more = declared - stored
    place = raw.index(_varint(12 + 2 * stored))
    (payload,) = [n for n in range(stored, stored + 40) if raw[place - 10 : place].count(_varint(n))]
    for old, new in ((payload, payload + more), (12 + 2 * stored, 12 + 2 * declared)):
        raw = raw.replace(_varint(old), _varint(new))
    path.write_bytes(raw)
    with pytest.raises(DamagedFile, match="in a file of"):
        Vessel(path)


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_opening_beside_a_writer_keeps_its_locks(path: Path) -> None:
    with Vessel(path, writable=True) as writer:
        writer._connection.execute("BEGIN IMMEDIATE")
        Vessel(path).close()
        other = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run([sys.executable, "-c", other, str(path)], capture_output=True, text=True, check=False)
        writer._connection.execute("ROLLBACK")
    assert "locked" in done.stderr


def test_files_are_let_go(path: Path) -> None:
    first, second = Vessel(path), Vessel(path)
    assert sum(sqlite._held.values()) >= 2
    first.close()
    first.close()
    second.close()
    status = path.stat()
    assert (status.st_dev, status.st_ino) not in sqlite._held


def test_of_two_creators_one_wins(tmp_path: Path) -> None:
    made: list[Vessel] = []
    faults: list[BaseException] = []

    def create() -> None:
        try:
            made.append(vessel.create(tmp_path / "x.caloset"))
        except FileExistsError as error:
            faults.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(faults)) == (1, 7)
    made[0].close()
    assert [found.name for found in tmp_path.iterdir()] == ["x.caloset"]


def test_a_journal_without_its_archive(tmp_path: Path) -> None:
    (tmp_path / "x.caloset-journal").write_bytes(b"rest")
    with pytest.raises(FileExistsError, match="journal"):
        vessel.create(tmp_path / "x.caloset")


def test_a_trigger_behind_the_name_of_a_table(path: Path) -> None:
    trigger = "CREATE TRIGGER meta AFTER INSERT ON item BEGIN DELETE FROM item; END"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'meta'").fetchone()
        connection.execute("DELETE FROM sqlite_schema WHERE name = 'meta'")
        row = "INSERT INTO sqlite_schema VALUES (?, 'meta', ?, ?, ?)"
        connection.execute(row, ("trigger", "item", 0, trigger))
        connection.execute(row, ("table", "meta", root, vessel._SCHEMA["meta"]))
    with pytest.raises(DamagedFile, match="tables"):
        Vessel(path)


def test_two_images_of_one_name(path: Path, picture: bytes) -> None:
    _row(path, Kind.PICTURE, 1, b"a", picture)
    with Archive(path) as archive, pytest.raises(DamagedFile, match="same name"):
        print(archive.names)


def test_a_name_is_free_again_if_nothing_was_stored(
    tmp_path: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ArchiveWriter(tmp_path / "y.caloset") as writer:
        with monkeypatch.context() as patch:
            patch.setattr(vessel, "MAX_ROW_BYTES", 1)
            with pytest.raises(LimitExceeded):
                writer.add_picture("a", picture)
        writer.add_picture("a", picture)
        with pytest.raises(InputError, match="already"):
            writer.add_picture("a", picture)
