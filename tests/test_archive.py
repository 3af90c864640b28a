"""Archives: what goes in comes out, whatever happens to the process or to the file."""

from __future__ import annotations

import gzip
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import closing
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import calotype
from calotype import arrays, bands, bundle, library, names, vessel
from calotype.archive import Archive, ArchiveWriter, Kind
from calotype.cli import app
from calotype.codec import DEFAULT_QUALITY, level_of
from calotype.errors import (
    CalotypeError,
    DamagedFile,
    InputError,
    LimitExceeded,
    ModelNotFound,
    NotCalotype,
    OptionError,
    UnsupportedFile,
)
from calotype.small import small_model
from calotype.vessel import Vessel
from conftest import psnr_db, raw_png

SIDE = 8


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained bits-back model of 8x8 images."""
    import torch

    from calotype.learn.bitsback.export import export
    from calotype.learn.bitsback.nets import Architecture, LatentModel

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny") / "tiny.calomodel"
    model = LatentModel(Architecture(image=(SIDE, SIDE, 1), latents=(4,), width=8))
    export(model, {"name": "tiny", "version": "1", "status": "preview"}, path)
    return path


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (12, SIDE, SIDE, 1), np.uint8)


@pytest.fixture
def picture() -> bytes:
    return calotype.encode(np.arange(35, dtype=np.uint8).reshape(5, 7), lossless=True)


def _packed(path: Path, tiny_model: Path, images: np.ndarray, picture: bytes, *, embed: bool = True) -> Path:
    file = library.open_path(tiny_model)
    with ArchiveWriter(path) as archive:
        if embed:
            archive.add_model(file)
        archive.add_picture("a/b.png", picture)
        archive.add_images(small_model(file), images[:7])
        archive.add_images(small_model(file), images[7:], [f"digits/{i}.png" for i in range(len(images) - 7)])
    return path


@pytest.fixture
def archive(tmp_path: Path, tiny_model: Path, images: np.ndarray, picture: bytes) -> Path:
    return _packed(tmp_path / "x.caloset", tiny_model, images, picture)


def _content(path: Path) -> list[tuple[str, bytes]]:
    with Archive(path) as archive:
        return [(entry.name, archive.image(entry).tobytes()) for entry in archive.entries]


def test_what_goes_in_comes_out(archive: Path, images: np.ndarray) -> None:
    with Archive(archive) as opened:
        assert len(opened) == 13
        assert opened.names[:3] == ["a/b.png", "000001", "000002"]
        assert opened.names[-1] == "digits/4.png"
        np.testing.assert_array_equal(np.asarray(opened.image("a/b.png")).ravel(), np.arange(35))
        np.testing.assert_array_equal(np.asarray(opened.image("000003")), images[2, ..., 0])
        np.testing.assert_array_equal(np.asarray(opened.image("digits/0.png")), images[7, ..., 0])
        with pytest.raises(InputError, match="no image named"):
            opened.image("nonesuch")
        assert opened[3].tobytes() == opened["000003"].tobytes() == images[2].tobytes()
        with pytest.raises(InputError, match="of one size"):
            opened.arrays()


def test_the_model_is_found_inside_or_named_or_missed(
    tmp_path: Path, tiny_model: Path, images: np.ndarray, picture: bytes
) -> None:
    path = _packed(tmp_path / "without.caloset", tiny_model, images, picture, embed=False)
    with Archive(path) as opened, pytest.raises(ModelNotFound):
        opened.image("000001")
    with Archive(path, library.open_path(tiny_model)) as opened:
        assert opened.image("000001").size == (SIDE, SIDE)


def test_names_are_taken_once(archive: Path, tmp_path: Path, picture: bytes) -> None:
    with ArchiveWriter(tmp_path / "y.caloset") as writer:
        writer.add_picture("a", picture)
        with pytest.raises(InputError, match="already"):
            writer.add_picture("a", picture)
        with pytest.raises(CalotypeError):
            writer.add_picture("b", b"no picture")
    with pytest.raises(FileExistsError):
        ArchiveWriter(archive)


BAD_NAMES = [
    "",
    ".",
    "..",
    "/etc/passwd",
    "a/../b",
    "a//b",
    "a/",
    "C:x",
    "a\\b",
    "a\nb",
    "a\0b",
    "x" * 1025,
    "\ud800",
    "nul",
    "a/Con.png",
    "COM1",
    "lpt9.tar.gz",
    "aux .txt",
    "a\u2029b",
    "gpj.\u202eexe",
    "a\x85b",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_elsewhere(name: str, tmp_path: Path, picture: bytes) -> None:
    with ArchiveWriter(tmp_path / "y.caloset") as writer, pytest.raises(InputError):
        writer.add_picture(name, picture)
    with pytest.raises(DamagedFile):
        names.checked(name)


@pytest.mark.parametrize(
    "name", ["Shot 9.41\u202fPM.png", "\U0001f468\u200d\U0001f469.png", "a\xa0b", "\U0001fae9.png"]
)
def test_names_as_people_have_them(name: str) -> None:
    assert names.check(name) == name


_PLAIN = st.text(st.characters(categories=["L", "N", "P"], exclude_characters='\\:*?"'), min_size=1, max_size=20)


@settings(max_examples=30)
@given(st.lists(_PLAIN.filter(lambda n: names.fault_of(n) is None), min_size=1, max_size=9))
def test_names_come_back(given_names: list[str]) -> None:
    assert names.unpack(names.pack(given_names), len(given_names)) == given_names
    with pytest.raises(DamagedFile):
        names.unpack(names.pack(given_names), len(given_names) + 1)


@given(st.binary(min_size=1, max_size=60), st.integers(1, 5))
def test_any_bytes_as_names(raw: bytes, count: int) -> None:
    with pytest.raises(DamagedFile):
        names.unpack(raw, count)


def test_unnamed_small_images_cost_two_bytes_at_most(tmp_path: Path) -> None:
    path = tmp_path / "many.caloset"
    rng = np.random.default_rng(0)
    with vessel.create(path) as opened:
        sizes = [int(n) for n in rng.integers(20_000, 140_000, 10)]
        for size in sizes:
            opened.add(Kind.BITS_BACK, 1000, b"", rng.bytes(size))
    assert (path.stat().st_size - sum(sizes)) / 10_000 < 2


def test_a_flipped_byte_is_an_error_or_changes_nothing(archive: Path, tmp_path: Path) -> None:
    wanted, raw = _content(archive), archive.read_bytes()
    broken = tmp_path / "broken.caloset"
    draw = random.Random(0)
    errors = 0
    places = list(range(100)) + draw.sample(range(100, 2048), 50) + draw.sample(range(2048, len(raw)), 60)
    for place in places:
        changed = bytearray(raw)
        changed[place] ^= 1 << draw.randrange(8)
        broken.write_bytes(changed)
        try:
            assert _content(broken) == wanted, place
        except CalotypeError:
            errors += 1
    assert errors > 30


def test_cut_files(archive: Path, tmp_path: Path) -> None:
    raw = archive.read_bytes()
    broken = tmp_path / "broken.caloset"
    for size in (0, 10, 99, 512, 1024, len(raw) // 2, len(raw) - 1024, len(raw) - 1):
        broken.write_bytes(raw[:size])
        with pytest.raises(CalotypeError):
            _content(broken)


def _changed(archive: Path, *statements: str) -> None:
    with closing(sqlite3.connect(archive, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM item WHERE ordinal = 3",
        "DELETE FROM item WHERE ordinal = 1",
        "UPDATE item SET data = x'00' WHERE ordinal = 2",
        "UPDATE item SET ordinal = 9 WHERE ordinal = 3",
        "UPDATE item SET names = 'text' WHERE ordinal = 2",
        "UPDATE item SET images = -1 WHERE ordinal = 2",
        "UPDATE item SET images = 'many' WHERE ordinal = 2",
        "UPDATE item SET images = 1 << 40 WHERE ordinal = 2",
        "UPDATE item SET data = zeroblob(1000000) WHERE ordinal = 2",
        "UPDATE meta SET items = 3",
        "DELETE FROM meta",
        "INSERT INTO meta VALUES (0, 0, x'00')",
        "CREATE TRIGGER t AFTER INSERT ON item BEGIN DELETE FROM item; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE INDEX i ON item (names)",
        "ALTER TABLE item ADD COLUMN more BLOB",
        "DROP TABLE meta",
        "PRAGMA journal_mode = WAL",
    ],
)
def test_what_others_did_to_an_archive_shows(archive: Path, statement: str) -> None:
    _changed(archive, statement)
    with pytest.raises((DamagedFile, LimitExceeded)):
        _content(archive)


def test_a_view_in_place_of_a_table(archive: Path) -> None:
    _changed(archive, "ALTER TABLE item RENAME TO hidden", "CREATE VIEW item AS SELECT * FROM hidden")
    with pytest.raises(DamagedFile, match="tables"):
        Archive(archive)


def test_other_files_and_versions(archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.caloset"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE item (x)")
    with pytest.raises(NotCalotype):
        Archive(other)
    _changed(archive, "PRAGMA user_version = 2")
    with pytest.raises(UnsupportedFile, match="version 2"):
        Archive(archive)
    with pytest.raises(FileNotFoundError):
        Archive(tmp_path / "none.caloset")


def test_rows_of_unknown_kind_or_false_count(tmp_path: Path, tiny_model: Path) -> None:
    model_id = library.open_path(tiny_model).id
    for number, (kind, images, data, error) in enumerate(
        [
            (77, 1, b"x", UnsupportedFile),
            (Kind.PICTURE, 2, b"x", DamagedFile),
            (Kind.MODEL, 1, b"x", DamagedFile),
            (Kind.BITS_BACK, 0, model_id + bytes(4), DamagedFile),
            (Kind.LATENTS, 1, model_id + bytes(4), DamagedFile),
            (Kind.BITS_BACK, 1, b"", ModelNotFound),
        ]
    ):
        path = tmp_path / f"{number}.caloset"
        with vessel.create(path) as opened:
            opened.add(kind, images, b"", data)
        with Archive(path, library.open_path(tiny_model)) as archive, pytest.raises(error):
            archive.chunk(archive.items[0])


def test_a_reader_beside_a_writer(tmp_path: Path, picture: bytes) -> None:
    path = tmp_path / "x.caloset"
    with ArchiveWriter(path) as writer:
        for number in range(3):
            writer.add_picture(str(number), picture)
            assert [name for name, _ in _content(path)] == [str(n) for n in range(number + 1)]
        with Vessel(path, writable=True) as second:
            second.add(Kind.PICTURE, 1, b"second", picture)
        with pytest.raises(InputError, match="another program"):
            writer.add_picture("third", picture)


PACKING = """
import sys
from calotype.archive import ArchiveWriter
with ArchiveWriter(sys.argv[1]) as archive:
    data = open(sys.argv[2], "rb").read()
    for number in range(100_000):
        archive.add_picture(str(number), data)
        print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_what_was_reported_survives_a_kill(tmp_path: Path, picture: bytes) -> None:
    source = tmp_path / "p.calo"
    source.write_bytes(picture)
    draw = random.Random(0)
    for attempt in range(5):
        path = tmp_path / f"{attempt}.caloset"
        with subprocess.Popen(
            [sys.executable, "-c", PACKING, str(path), str(source)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "0\n"
            time.sleep(draw.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            reported = 1 + len(process.stdout.read().split())
        found = _content(path)
        assert len(found) >= reported
        assert {pixels for _, pixels in found} == {np.arange(35, dtype=np.uint8).tobytes()}


# --- the command line ------------------------------------------------------------------------------------------------


def _run(*arguments: object, status: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "calotype", *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_small_images_by_the_command_line(tmp_path: Path, tiny_model: Path, images: np.ndarray) -> None:
    source, packed, back = tmp_path / "in.npy", tmp_path / "x.caloset", tmp_path / "out.idx.gz"
    np.save(source, images[..., 0])
    _run("pack", source, packed, "--lossless", "-m", tiny_model, "--embed-model")
    _run("unpack", packed, back)
    _run("pack", back, tmp_path / "y.caloset", "--lossless", "-m", tiny_model)
    _run("unpack", packed, tmp_path / "again.npy")
    assert (tmp_path / "again.npy").read_bytes() == source.read_bytes()
    _run("unpack", packed, tmp_path / "folder", "--format", "pgm")
    with Image.open(tmp_path / "folder" / "000003.pgm") as image:
        np.testing.assert_array_equal(np.asarray(image), images[3, ..., 0])
    _run("extract", packed, "000005", "-o", tmp_path / "five.png")
    with Image.open(tmp_path / "five.png") as image:
        np.testing.assert_array_equal(np.asarray(image), images[5, ..., 0])
    assert "12" in _run("ls", packed).stdout
    assert "exists" in _run("unpack", packed, back, status=1).stderr
    assert "exists" in _run("pack", source, packed, "--lossless", status=1).stderr
    assert "add --lossless" in _run("pack", source, tmp_path / "z.caloset", "-m", tiny_model, status=2).stderr
    assert "not installed" in _run("unpack", tmp_path / "y.caloset", tmp_path / "z.npy", status=1).stderr
    assert not (tmp_path / "z.npy").exists()
    missing = _run("unpack", tmp_path / "y.caloset", tmp_path / "z", status=1).stderr
    assert missing.count("not installed") == 1
    assert "12 failed" in missing


def test_a_folder_by_the_command_line(tmp_path: Path, small_photo: Image.Image) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    small_photo.save(folder / "a.png")
    small_photo.convert("L").save(folder / "deep" / "b.tif")
    (folder / "bad.png").write_bytes(b"no picture")
    done = _run("pack", folder, tmp_path / "x.caloset", "--lossless", status=1)
    assert "bad.png" in done.stderr
    assert "2 images" in done.stderr
    _run("unpack", tmp_path / "x.caloset", tmp_path / "out")
    with Image.open(tmp_path / "out" / "deep" / "b.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(small_photo.convert("L")))
    listed = _run("ls", tmp_path / "x.caloset", "--json").stdout
    assert '"deep/b.tif"' in listed
    _run("extract", tmp_path / "x.caloset", "a.png", "deep/b.tif", "-o", tmp_path / "two")
    assert (tmp_path / "two" / "a.png").exists()
    (folder / "bad.png").unlink()
    _run("pack", folder, tmp_path / "lossy.caloset", "-q", "30", "--quiet")
    assert (tmp_path / "lossy.caloset").stat().st_size < (tmp_path / "x.caloset").stat().st_size / 2


def test_training_first(tmp_path: Path, small_photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[Path], float | None]] = []

    def fake(sources: list[Path], out: Path, *, minutes: float | None, overwrite: bool) -> None:
        assert overwrite or not out.exists()
        asked.append((sources, minutes))
        out.write_bytes(library.find("photo").serialise())

    monkeypatch.setattr("calotype.cli.pack.train_model", fake)
    folder, out = tmp_path / "in", tmp_path / "x.caloset"
    folder.mkdir()
    small_photo.crop((0, 0, 100, 100)).save(folder / "a.png")
    command = ["pack", str(folder), str(out), "--train"]
    assert CliRunner().invoke(app, [*command, "--minutes", "2"]).exit_code == 0
    assert asked == [([folder], 2.0)]
    assert out.with_suffix(".calomodel").is_file()
    with Archive(out) as archive:
        assert [item.kind for item in archive.items] == [Kind.MODEL, Kind.PICTURE]
    assert isinstance(CliRunner().invoke(app, command).exception, FileExistsError)
    assert len(asked) == 1  # nothing is trained for an archive that cannot be written
    out.unlink()
    kept = CliRunner().invoke(app, command).exception
    assert isinstance(kept, FileExistsError)
    assert "x.calomodel exists" in str(kept)
    assert len(asked) == 1  # nor over a model that may be of use
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0
    assert len(asked) == 2
    for wrong in (["--lossless"], ["-m", "photo"]):
        assert isinstance(CliRunner().invoke(app, [*command, "--overwrite", *wrong]).exception, OptionError)
    without = [argument for argument in command if argument != "--train"]
    assert isinstance(CliRunner().invoke(app, [*without, "--minutes", "2"]).exception, OptionError)
    assert isinstance(
        CliRunner().invoke(app, ["pack", "digits", str(tmp_path / "y.caloset"), "--train"]).exception, OptionError
    )
    (folder / "a.png").rename(folder / "a.txt")
    nothing = CliRunner().invoke(app, ["pack", str(folder), str(tmp_path / "y.caloset"), "--train"]).exception
    assert isinstance(nothing, InputError)
    assert len(asked) == 2  # nothing is trained for a folder of which nothing can be packed


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_nothing_is_written_outside_the_folder(tmp_path: Path, picture: bytes) -> None:
    with ArchiveWriter(tmp_path / "x.caloset") as writer:
        writer.add_picture("link/a.png", picture)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    assert "outside" in _run("unpack", tmp_path / "x.caloset", tmp_path / "out", status=1).stderr
    assert not list((tmp_path / "elsewhere").iterdir())
    with vessel.create(tmp_path / "evil.caloset") as opened:
        opened.add(Kind.PICTURE, 1, b"../a.png", picture)
    assert "means harm" in _run("unpack", tmp_path / "evil.caloset", tmp_path / "out", status=1).stderr


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_overwriting_follows_no_link_out_of_the_folder(tmp_path: Path, picture: bytes) -> None:
    with ArchiveWriter(tmp_path / "x.caloset") as writer:
        writer.add_picture("a.png", picture)
    (tmp_path / "precious").write_text("keep me")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "precious")
    done = _run("unpack", tmp_path / "x.caloset", tmp_path / "out", "--overwrite", status=1)
    assert "outside" in done.stderr
    assert (tmp_path / "precious").read_text() == "keep me"


def test_overwriting_keeps_the_old_archive_until_there_is_a_new_one(tmp_path: Path, small_photo: Image.Image) -> None:
    good, bad, out = tmp_path / "good", tmp_path / "bad", tmp_path / "x.caloset"
    good.mkdir()
    bad.mkdir()
    small_photo.save(good / "a.png")
    (bad / "b.png").write_bytes(b"no picture")
    _run("pack", bad, out, "--lossless", status=1)
    assert not out.exists()
    _run("pack", good, out, "--lossless")
    before = out.read_bytes()
    assert "b.png" in _run("pack", bad, out, "--lossless", "--overwrite", status=1).stderr
    assert out.read_bytes() == before
    small_photo.save(good / "c.png")
    journal = Path(f"{out}-journal")
    journal.mkdir()
    assert "journal" in _run("pack", good, out, "--lossless", "--overwrite", status=1).stderr
    assert out.read_bytes() == before
    journal.rmdir()
    journal.write_bytes(b"")
    _run("pack", good, out, "--lossless", "--overwrite")
    assert [name for name, _ in _content(out)] == ["a.png", "c.png"]
    journal.unlink(missing_ok=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "good", "x.caloset"]


def test_a_change_that_was_cut_off_is_taken_back(archive: Path) -> None:
    wanted = _content(archive)
    script = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
connection.execute("UPDATE item SET data = zeroblob(length(data)), names = x'00'")
connection.execute("INSERT INTO item VALUES (9, 2, 1, 0, x'', zeroblob(200000))")
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", script, str(archive)], check=False)
    assert Path(f"{archive}-journal").stat().st_size > 0
    assert _content(archive) == wanted


def test_a_broken_model_inside_hides_no_other(tmp_path: Path, tiny_model: Path, images: np.ndarray) -> None:
    file, path = library.open_path(tiny_model), tmp_path / "x.caloset"
    with vessel.create(path) as opened:
        opened.add(Kind.MODEL, 0, b"", b"no model")
    with Vessel(path, writable=True) as opened:
        opened.add(Kind.MODEL, 0, b"", file.serialise())
        packed = ArchiveWriter(tmp_path / "y.caloset")
        item = packed.add_images(small_model(file), images)
        opened.add(Kind.BITS_BACK, len(images), b"", packed._vessel.data(item))
        packed.close()
    with Archive(path) as archive:
        np.testing.assert_array_equal(archive.arrays(), images)


def test_the_model_that_is_named_comes_first(archive: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = library.open_path(tiny_model)
    monkeypatch.setattr(library, "vetted", None)
    with Archive(archive, file) as opened:
        assert opened.image("000001").size == (SIDE, SIDE)


def test_a_picture_by_a_model_of_small_images(tmp_path: Path, digits_model: Path) -> None:
    data = calotype.encode(np.zeros((8, 8), np.uint8), model=library.open_path(digits_model))
    with ArchiveWriter(tmp_path / "x.caloset") as writer:
        writer.add_picture("a", data)
    with Archive(tmp_path / "x.caloset", library.open_path(digits_model)) as archive:
        assert archive.image("a").size == (8, 8)


def test_chunks_that_were_decoded_are_kept_within_a_limit(
    archive: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = Archive._decode
    monkeypatch.setattr(Archive, "_decode", lambda self, item: decoded.append(item.ordinal) or decode(self, item))
    for limit_bytes, wanted in ((images.nbytes, [2, 3]), (images.nbytes - 1, [2, 3, 2])):
        decoded.clear()
        monkeypatch.setattr("calotype.archive.reader.CACHED_BYTES", limit_bytes)
        with Archive(archive) as opened:
            for name in ("000001", "000002", "digits/0.png", "digits/1.png", "000003"):
                opened.image(name)
        assert decoded == wanted


def test_single_images_are_written_as_arrays(archive: Path, images: np.ndarray, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["extract", str(archive), "000001", "-o", str(tmp_path / "x.npy")])
    assert done.exit_code == 0, done.output
    with Archive(archive) as opened:
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.array(opened.image("000001")))
    refused = CliRunner().invoke(app, ["extract", str(archive), "000001", "--format", "idx"])
    assert refused.exit_code == 2
    assert "idx' is not a format to write" in refused.output


def test_where_images_go(archive: Path, tmp_path: Path, small_photo: Image.Image) -> None:
    def invoke(*arguments: object) -> Any:
        return CliRunner().invoke(app, [*map(str, arguments)])

    (tmp_path / "in").mkdir()
    small_photo.crop((0, 0, 20, 20)).save(tmp_path / "in" / "a.png")
    assert invoke("pack", tmp_path / "in", tmp_path / "new" / "deep" / "x.caloset", "--lossless").exit_code == 0
    assert (tmp_path / "new" / "deep" / "x.caloset").is_file()
    for command in (("unpack", archive), ("extract", archive, "000001", "000002", "-o")):
        refused = invoke(*command, tmp_path / "in" / "a.png", "--overwrite")
        assert isinstance(refused.exception, InputError)
        assert "is a file" in str(refused.exception)
    several = invoke("extract", archive, "000001", "000002", "-o", "-")
    assert several.exit_code == 2
    assert "one image" in several.output


def test_each_picture_is_read_once(tmp_path: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with ArchiveWriter(tmp_path / "x.caloset") as writer:
        writer.add_picture("grey.png", picture)
        writer.add_picture("bands.tif", calotype.encode(np.zeros((4, 6, 5), np.uint8), lossless=True))
    read: list[int] = []
    data = Vessel.data

    def counted(self: Vessel, item: vessel.Item) -> bytes:
        read.append(item.ordinal)
        return data(self, item)

    monkeypatch.setattr(Vessel, "data", counted)
    for suffix in ("tif", "npy"):
        done = CliRunner().invoke(app, ["unpack", str(tmp_path / "x.caloset"), str(tmp_path), "--format", suffix])
        assert done.exit_code == 0, done.output
    assert read == [0, 1, 0, 1]
    with Archive(tmp_path / "x.caloset") as opened, pytest.raises(UnsupportedFile, match="5 channels"):
        opened.image("bands.tif")


def test_what_is_handed_out_is_not_what_is_kept(
    archive: Path, images: np.ndarray, tmp_path: Path, digits_model: Path
) -> None:
    with Archive(archive) as opened:
        first = next(item for item in opened.items if item.kind == Kind.BITS_BACK)
        before = opened.chunk(first).copy()
        opened.chunk(first)[:] = 77
        np.testing.assert_array_equal(opened.chunk(first), before)
    model = small_model(library.open_path(digits_model))
    with ArchiveWriter(tmp_path / "y.caloset") as writer:
        writer.add_images(model, np.full((1, 8, 8, 1), 99, np.uint8))
    with Archive(tmp_path / "y.caloset", model.bundle) as opened:
        y = opened.latents("000000").copy()
        opened.latents("000000")[:] = 7
        np.testing.assert_array_equal(opened.latents("000000"), y)


def test_bits_back_keeps_no_latents(archive: Path) -> None:
    with Archive(archive) as opened, pytest.raises(InputError, match="bits back"):
        opened.latents("000001")


def test_arrays_are_not_larger_than_asked_for(
    tmp_path: Path, tiny_model: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(library.open_path(tiny_model))
    with ArchiveWriter(tmp_path / "x.caloset") as writer:
        writer.add_images(model, images)
    monkeypatch.setattr("calotype.archive.reader.MAX_ARRAY_BYTES", images.size - 1)
    with Archive(tmp_path / "x.caloset", model.bundle) as archive, pytest.raises(LimitExceeded, match="samples"):
        archive.arrays()


def test_latents_count_as_samples_do(tmp_path: Path, digits_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(library.open_path(digits_model))
    monkeypatch.setattr("calotype.small.image_of", lambda _: (1, 1, 1))
    monkeypatch.setattr("calotype.archive.rows.MAX_CHUNK_BYTES", 100)
    with vessel.create(tmp_path / "x.caloset") as opened:
        opened.add(Kind.LATENTS, 100, b"", model.bundle.id + bytes(9))
    with Archive(tmp_path / "x.caloset", model.bundle) as archive, pytest.raises(LimitExceeded, match="a chunk holds"):
        archive.chunk(archive.items[0])


def test_levels_of_small_images(tmp_path: Path, digits_model: Path) -> None:
    model, images = small_model(library.open_path(digits_model)), np.zeros((3, 8, 8, 1), np.uint8)
    with ArchiveWriter(tmp_path / "x.caloset") as writer:
        with pytest.raises(OptionError, match="level 256"):
            writer.add_images(model, images, level=256)
        item = writer.add_images(model, images)
        assert writer._vessel.data(item)[8] == level_of(DEFAULT_QUALITY)


def _idx(shape: tuple[int, ...]) -> bytes:
    return struct.pack(">BBBB3I", 0, 0, 8, 3, *shape) + bytes(prod(shape))


@pytest.mark.parametrize("case", ["zip", "cut", "object", "huge", "nonsense", "gzip"])
def test_files_that_are_no_arrays(tmp_path: Path, case: str) -> None:
    path = tmp_path / ("x.idx.gz" if case == "gzip" else "x.npy")
    if case == "zip":
        with path.open("wb") as stream:
            np.savez(stream, a=np.zeros((2, 4, 4), np.uint8))
    elif case == "gzip":
        raw = bytearray(gzip.compress(_idx((2, 40, 40)), mtime=0))
        raw[10] = 0xFF  # a block of a type that there is not
        path.write_bytes(raw)
    else:
        header = {
            "cut": "{'descr': '|u1', 'fortran_order': False, 'shape': (9, 9, 9), }",
            "object": "{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 1), }",
            "huge": "{'descr': '|u1', 'fortran_order': False, 'shape': (1 << 90, 1, 1), }".replace(
                "1 << 90", str(1 << 90)
            ),
            "nonsense": "{'descr': (((",
        }[case].encode()
        path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
    with pytest.raises(InputError, match="x"):
        arrays.read(path)


@pytest.mark.parametrize(("name", "module"), [("digits", "sklearn.datasets"), ("mnist", "pooch")])
def test_data_sets_that_need_more(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from calotype import datasets

    monkeypatch.delenv(datasets.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(OptionError, match=r"calotype\[learn\]"):
        datasets.load_test(name)


def test_lossy_small_images(tmp_path: Path, digits_model: Path) -> None:
    from calotype import datasets

    images = datasets.load_test("digits").images
    model = small_model(library.open_path(digits_model))
    with ArchiveWriter(tmp_path / "x.caloset") as writer:
        writer.add_images(model, images, level=150)
    with Archive(tmp_path / "x.caloset", model.bundle) as archive:
        whole = archive.arrays()
        np.testing.assert_array_equal(np.asarray(archive.image("000007")), whole[7, ..., 0])
        np.testing.assert_array_equal(model.synthesise(archive.latents("000007")[None])[0], whole[7])
        assert psnr_db(whole, images) > 15


def test_an_archive_of_another_model_than_the_one_named(
    tmp_path: Path, tiny_model: Path, small_photo: Image.Image
) -> None:
    with ArchiveWriter(tmp_path / "x.caloset") as writer:
        writer.add_picture("a", calotype.encode(small_photo.crop((0, 0, 130, 130)), quality=20))
    with Archive(tmp_path / "x.caloset", library.open_path(tiny_model)) as archive:
        assert archive.image("a").size == (130, 130)


def test_one_image_of_many_may_be_changed(archive: Path, images: np.ndarray) -> None:
    with Archive(archive) as opened:
        name = next(e.name for e in opened.entries if e.item.kind == Kind.BITS_BACK and e.place == 1)
        opened.array(name)[:] = 77
        np.testing.assert_array_equal(opened.array(name), images[1, ..., 0])


def test_16_bit_colour_is_unpacked_whole_or_with_a_word(tmp_path: Path, rng: np.random.Generator) -> None:
    samples = rng.integers(0, 65536, (6, 8, 3)).astype(np.uint16)
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "deep.npy", samples)
    _run("pack", folder, tmp_path / "x.caloset", "--lossless")
    for suffix in ("npy", "tif"):
        _run("extract", tmp_path / "x.caloset", "deep.npy", "-o", tmp_path / f"deep.{suffix}")
        with (tmp_path / f"deep.{suffix}").open("rb") as stream:
            np.testing.assert_array_equal(bands.read(stream), samples)
    said = "note: deep.npy: 16-bit colour written as 8 bits"
    assert said in _run("unpack", tmp_path / "x.caloset", tmp_path / "out").stderr
    assert said in _run("extract", tmp_path / "x.caloset", "deep.npy", "-o", tmp_path / "deep.png").stderr
    assert not _run("unpack", tmp_path / "x.caloset", tmp_path / "quiet", "--quiet").stderr


def test_small_pictures_as_they_are_found(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    grey = np.arange(64, dtype=np.uint8).reshape(SIDE, SIDE)
    Image.fromarray(grey).convert("RGB").save(folder / "rgb.png")
    Image.fromarray(grey).convert("LA").save(folder / "alpha.png")
    deep = np.full((SIDE, SIDE, 3), 1000, ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    (folder / "deep.png").write_bytes(raw_png(SIDE, SIDE, 16, 2, rows))
    said = _run("pack", folder, tmp_path / "x.caloset", "--lossless", "-m", tiny_model, status=1).stderr
    assert "and alpha" in said
    assert "cut from more bits" in said
    assert "1 images" in said
    with Archive(tmp_path / "x.caloset", library.open_path(tiny_model)) as archive:
        np.testing.assert_array_equal(archive.array("rgb.png"), grey)


def test_a_pack_that_cannot_begin_leaves_nothing(tmp_path: Path, small_photo: Image.Image) -> None:
    photo = library.find("photo")
    members = {name: raw for name, raw in photo.members.items() if name not in ("g_a.onnx", "h_a.onnx")}
    bundle.write(tmp_path / "decoding.calomodel", members)
    (tmp_path / "in").mkdir()
    small_photo.save(tmp_path / "in" / "a.png")
    said = _run("pack", tmp_path / "in", tmp_path / "x.caloset", "-m", tmp_path / "decoding.calomodel", status=1).stderr
    assert "g_a.onnx" in said
    assert not (tmp_path / "x.caloset").exists()


def test_an_array_that_may_be_one_picture_is_not_taken_for_many(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros((12, 16, 3), np.uint8))
    said = _run("pack", tmp_path / "one.npy", tmp_path / "x.caloset", "--lossless", status=1).stderr
    assert "may be one picture (h, w, c)" in said
    np.save(tmp_path / "MANY.NPY", np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "MANY.NPY.npy").rename(tmp_path / "MANY.NPY")
    _run("pack", tmp_path / "MANY.NPY", tmp_path / "x.caloset", "--lossless")
