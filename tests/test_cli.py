"""The command line on real files: by CliRunner where it is about what is said, in a subprocess where about pipes."""

import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner, Result

import calotype
from calotype import bands, codec, container, library
from calotype.cli import COMMANDS, app, files, main
from calotype.cli.console import say, watched
from calotype.cli.pictures import FORMATS
from calotype.container import Metadata
from conftest import raw_png

SUMMARY = r"{} -> {}  [\d,]+ bytes  \d+\.\d{{3}} bpp  \d+\.\d+ MP/s"
posix_only = pytest.mark.skipif(os.name == "nt", reason="needs devices and signals of POSIX")


def picture(mode: str = "RGB", size: tuple[int, int] = (90, 70), seed: int = 1) -> Image.Image:
    """Gradients and noise."""
    width, height = size
    ramps = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 100, width))
    if mode == "I;16":
        return Image.fromarray((ramps * 256 + np.arange(width)).astype(np.uint16))
    channels = len(Image.new(mode, (1, 1)).getbands())
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, channels))
    samples = np.clip(ramps[..., None] * np.linspace(0.6, 1, channels) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(samples.squeeze(2) if channels == 1 else samples)


def run(*arguments: object, code: int = 0, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    assert result.exit_code == code, f"{result.exit_code}: {result.output}"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def said(result: Result) -> str:
    """What was said on stderr, in one line without the frame that typer draws."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())


def program(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
    code = "import sys; sys.argv[0] = 'calotype'; from calotype.cli import main; main()"
    env = os.environ | {"PYTHONPATH": str(Path(calotype.__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": env} | options
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **pipes)  # type: ignore[call-overload]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with one picture."""
    monkeypatch.chdir(tmp_path)
    picture().save("a.png")
    return tmp_path


@pytest.fixture
def calo(folder: Path) -> Path:
    Path("a.calo").write_bytes(calotype.encode(picture(), lossless=True))
    return folder / "a.calo"


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# What comes out


def test_encode_and_decode_without_options_write_beside_the_input(folder: Path) -> None:
    result = run("encode", "a.png")
    assert re.search(SUMMARY.format(r"a\.png", r"a\.calo"), result.stderr)
    assert not result.stdout
    Path("a.png").unlink()
    result = run("decode", "a.calo")
    assert re.search(SUMMARY.format(r"a\.calo", r"a\.png"), result.stderr)
    with Image.open("a.png") as image:
        error = np.asarray(image).astype(float) - np.asarray(picture())
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 28


def test_the_second_of_two_arguments_names_the_output(folder: Path) -> None:
    run("encode", "a.png", "b.calo", "--lossless")
    run("decode", "b.calo", "c.webp")
    with Image.open("c.webp") as image:
        assert (image.format, image.size) == ("WEBP", (90, 70))
    assert names(folder) == {"a.png", "b.calo", "c.webp"}


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_lossless_is_exact(folder: Path, mode: str) -> None:
    picture(mode).save("b.png")
    assert "exact" in run("encode", "b.png", "--lossless", "--verify").stderr
    run("decode", "b.calo", "-o", "c.png")
    with Image.open("b.png") as before, Image.open("c.png") as after:
        assert before.mode == after.mode
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


def test_rates_are_met_and_verify_says_the_psnr(folder: Path) -> None:
    run("encode", "a.png", "s.calo", "--size", "1.5k")
    assert Path("s.calo").stat().st_size <= 1500
    run("encode", "a.png", "b.calo", "--bpp", "1")
    assert Path("b.calo").stat().st_size * 8 <= 90 * 70
    match = re.search(r"(\d+\.\d\d) dB", run("encode", "a.png", "p.calo", "--psnr", "30", "--verify").stderr)
    assert match is not None
    error = calotype.decode_array(Path("p.calo").read_bytes()).astype(float) - np.asarray(picture())
    assert float(match[1]) == pytest.approx(10 * np.log10(255**2 / np.mean(error**2)), abs=0.006)
    assert float(match[1]) >= 30
    run("encode", "a.png", "low.calo", "-q", "0")
    run("encode", "a.png", "high.calo", "-q", "95", "-e", "1")
    assert Path("low.calo").stat().st_size < Path("high.calo").stat().st_size


def test_verify_writes_nothing_that_decodes_to_something_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode_array = calotype.decode_array
    monkeypatch.setattr(calotype, "decode_array", lambda *a, **k: decode_array(*a, **k) ^ 1)
    assert "does not decode" in run("encode", "a.png", "--lossless", "--verify", code=1).stderr
    assert names(folder) == {"a.png"}


def test_standard_streams(folder: Path) -> None:
    encoded = program("encode", "-", "--lossless").communicate(Path("a.png").read_bytes())
    assert b"stdin -> stdout" in encoded[1]
    decoded = program("decode", "-", "-o", "-", "--format", "ppm").communicate(encoded[0])
    with Image.open(io.BytesIO(decoded[0])) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(picture()))
    run("encode", "-", "b.calo", "--lossless", stdin=Path("a.png").read_bytes())
    assert Path("b.calo").read_bytes() == encoded[0]
    assert run("encode", "a.png", "-o", "-", "--lossless").stdout_bytes == encoded[0]


def test_a_terminal_gets_no_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", type("Terminal", (), {"isatty": lambda _: True})())
    with pytest.raises(calotype.InputError, match="terminal"):
        files.check_target(files.Job(None, None), overwrite=True)


def test_notes_of_the_summary(folder: Path) -> None:
    picture().save("small.jpg", quality=60)
    assert "larger than the input" in run("encode", "small.jpg", "--lossless").stderr
    assert "larger" not in run("encode", "a.png", "--lossless").stderr


def test_quiet(calo: Path) -> None:
    result = run("encode", "a.png", "-o", "b.calo", "--quiet", "-e", "1")
    assert not result.output
    assert "exists" in run("encode", "a.png", "-o", "b.calo", "--quiet", code=1).stderr
    assert not run("decode", "a.calo", "b.png", "--quiet").output


def test_a_preview_model_is_announced_once(folder: Path) -> None:
    status = calotype.models()[0].status
    picture().save("b.png")
    result = run("encode", "a.png", "b.png", "-e", "1", "-m", "photo")
    assert result.stderr.count("may not decode after the next release") == (status == "preview")
    assert "note" not in run("encode", "a.png", "c.calo", "--lossless").stderr


# Options


RATES = ["--quality=0", "--bpp=1", "--size=20k", "--psnr=30", "--lossless"]


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(RATES, 2), ("--model=photo", "--lossless")])
def test_rates_exclude_each_other(folder: Path, one: str, other: str) -> None:
    flags = f"{one.split('=')[0]} and {other.split('=')[0]}"
    assert f"{flags} exclude each other" in said(run("encode", "a.png", one, other, code=2))
    assert names(folder) == {"a.png"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--quality", "101"],
        ["-q", "nan"],
        ["--bpp", "0"],
        ["--psnr", "-3"],
        ["--size", "20q"],
        ["--size", "0"],
        ["--size", "-5"],
        ["--effort", "0"],
        ["-j", "0"],
        ["--nonsense"],
        ["--model", "nobody"],
        ["--model", "a.png"],
    ],
)
def test_options_that_make_no_sense(
    folder: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["calotype", "encode", "a.png", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == (1 if arguments[0] == "--model" else 2)
    assert "rror" in capsys.readouterr().err
    assert names(folder) == {"a.png"}


def test_model_by_path(folder: Path) -> None:
    path = calotype.models()[0].path
    run("encode", "a.png", "-m", path, "-e", "1", "--verify")
    run("decode", "a.calo", "b.png", "-m", path)
    assert "b.png" in names(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", "a.png", "a.png", "-o", "-"],
        ["encode", "-", "a.png"],
        ["encode", "-", "-"],
        ["encode", "-r", ".", "-o", "-"],
        ["encode", "a.png", "b.png", "-o", "x.calo"],
        ["encode", "-r", ".", "-o", "a.png"],
        ["encode", "-", "-o", "."],
        ["decode", "a.calo", "-o", "x.gif"],
        ["decode", "a.calo", "--format", "heic"],
        ["decode", "a.calo", "b.calo", "-o", "x.png"],
        ["decode", "a.calo", "--max-pixels", "-1"],
        ["decode"],
    ],
)
def test_inputs_and_outputs_that_do_not_go_together(calo: Path, arguments: list[str]) -> None:
    run(*arguments, code=2)
    assert names(calo.parent) == {"a.png", "a.calo"}


def test_strip(folder: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    picture().save("e.jpg", exif=exif)
    run("encode", "e.jpg", "with.calo", "--lossless")
    run("encode", "e.jpg", "without.calo", "--lossless", "--strip", "--verify")
    with_exif, without = (calotype.info(Path(f"{n}.calo").read_bytes()) for n in ("with", "without"))
    assert (with_exif.width, list(with_exif.metadata)) == (90, ["exif"])
    assert (without.width, without.metadata) == (70, {})


def test_max_pixels(calo: Path) -> None:
    assert "limit" in run("decode", "a.calo", "b.png", "--max-pixels", "6299", code=1).stderr
    run("decode", "a.calo", "b.png", "--max-pixels", "6300")
    run("decode", "a.calo", "c.png", "--max-pixels", "0")


# Many files


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of three pictures, one broken picture and two other files."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["in/a.png", "in/deep/b.JPG", "in/deep/er/c.d.bmp"]):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed=number).save(name)
        os.utime(name, (1_000_000_000 + number, 1_000_000_000 + number))
    Path("in/deep/broken.png").write_bytes(Path("in/a.png").read_bytes()[:500])
    Path("in/notes.txt").write_text("not a picture")
    Path("in/clip.mpg").write_bytes(b"\0\0\1\xb3")
    return tmp_path


def test_recursion_mirrors_the_tree(tree: Path) -> None:
    result = run("encode", "-r", "in", "-o", "out", "--lossless", "-j", "2", code=1)
    assert names(tree / "out") == {"a.calo", "deep/b.calo", "deep/er/c.d.calo"}
    assert Path("out/deep/er/c.d.calo").stat().st_mtime == 1_000_000_002
    assert re.search(r"calotype: error: \S*broken\.png: ", result.stderr)
    assert re.search(r"^3 files  .* MP/s  1 failed  2 other files skipped$", result.stderr, re.MULTILINE)
    run("decode", "-r", "out", "-o", "back.v2", "--format", "tif")
    assert names(tree / "back.v2") == {"a.tif", "deep/b.tif", "deep/er/c.d.tif"}
    assert Path("back.v2/a.tif").stat().st_mtime == 1_000_000_000
    run("decode", "-r", "out", "-o", "back.v3")
    assert "a.png" in names(tree / "back.v3")


def test_recursion_beside_the_inputs(tree: Path) -> None:
    Path("in/deep/broken.png").unlink()
    run("encode", "-r", "in", "--lossless")
    assert {"in/a.calo", "in/deep/b.calo", "in/deep/er/c.d.calo"} < names(tree)
    run("encode", "-r", "in/deep", "in/a.png", "-o", "out", "--lossless")
    assert names(tree / "out") == {"a.calo", "deep/b.calo", "deep/er/c.d.calo"}


def test_side_by_side_makes_the_same_files(tree: Path) -> None:
    run("encode", "in/a.png", "in/deep/b.JPG", "-o", "one/", "-e", "1")
    run("encode", "in/a.png", "in/deep/b.JPG", "-o", "two/", "-e", "1", "-j", "2")
    for name in ("a.calo", "b.calo"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


def test_two_inputs_never_share_an_output(folder: Path) -> None:
    picture(seed=2).save("a.jpg")
    result = run("encode", "a.png", "a.jpg", "--lossless", "--overwrite", "-j", "2", code=1)
    assert "a.jpg: a.calo is the output of a.png" in result.stderr
    np.testing.assert_array_equal(calotype.decode_array(Path("a.calo").read_bytes()), np.asarray(picture()))


def test_a_folder_needs_recursive(tree: Path) -> None:
    assert "in: is a folder: name its files" in run("encode", "in", "--lossless", code=1).stderr


# What must not be lost


def test_files_are_replaced_only_on_demand(folder: Path) -> None:
    Path("a.calo").write_text("precious")
    result = run("encode", "a.png", "--lossless", code=1)
    assert result.stderr == "calotype: error: a.png: a.calo exists: use --overwrite to replace it\n"
    assert Path("a.calo").read_text() == "precious"
    run("encode", "a.png", "--lossless", "--overwrite")
    assert calotype.info(Path("a.calo").read_bytes()).width == 90
    assert "its own output" in run("encode", "a.png", "-o", "./a.png", "--overwrite", code=1).stderr
    Image.open("a.png").verify()


def test_a_failed_write_leaves_everything_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    Path("a.calo").write_text("precious")
    monkeypatch.setattr(Path, "replace", fail)
    result = run("encode", "a.png", "--lossless", "--overwrite", code=1)
    assert result.stderr.startswith("calotype: error: a.png: a.calo: No space left on device\n")
    assert names(folder) == {"a.png", "a.calo"}
    assert Path("a.calo").read_text() == "precious"


@posix_only
def test_devices_and_links(folder: Path) -> None:
    run("encode", "a.png", "-o", "/dev/null", "--lossless")
    assert not Path("/dev/null").is_file()
    if Path("/dev/full").exists():
        assert "No space left" in run("encode", "a.png", "-o", "/dev/full", "--lossless", code=1).stderr
    Path("real.calo").write_text("old")
    Path("link.calo").symlink_to("real.calo")
    run("encode", "a.png", "link.calo", "--lossless", "--overwrite")
    assert Path("link.calo").is_symlink()
    assert calotype.info(Path("real.calo").read_bytes()).lossless


# Bad input


@pytest.mark.parametrize("content", [b"", b"plain text", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM" + bytes(60), None])
def test_what_is_no_picture(folder: Path, content: bytes | None) -> None:
    if content is not None:
        Path("bad.png").write_bytes(content)
    result = run("encode", "bad.png", "--lossless", code=1)
    assert re.fullmatch(r"calotype: error: bad\.png: .+\n", result.stderr)
    assert "bad.calo" not in names(folder)


def test_several_frames(folder: Path) -> None:
    picture().save("moving.gif", save_all=True, append_images=[picture(seed=2)])
    assert re.search(r"moving\.gif: .*2 pictures", run("encode", "moving.gif", "--lossless", code=1).stderr)


def test_cut_pictures_and_bombs(folder: Path) -> None:
    for suffix in ("png", "jpg", "tif", "webp", "bmp"):
        picture().save(f"whole.{suffix}")
        data = Path(f"whole.{suffix}").read_bytes()
        Path(f"cut.{suffix}").write_bytes(data[: len(data) // 2])
        assert f"error: cut.{suffix}: " in run("encode", f"cut.{suffix}", "--lossless", code=1).stderr
    refused = run("encode", "a.png", "--lossless", "--max-pixels", "1000", code=1)
    assert "more than 1000 pixels: --max-pixels" in refused.stderr
    assert not any(name.endswith(".calo") for name in names(folder))


def test_damaged_files(calo: Path) -> None:
    data = bytearray(calo.read_bytes())
    rng = np.random.default_rng(7)
    for number in range(40):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        Path(f"bad{number}.calo").write_bytes(damaged[: len(data) - number] if number % 2 else damaged)
    bad = [f"bad{number}.calo" for number in range(40)]
    assert run("decode", *bad, "-o", "out", code=1).stderr.count("calotype: error: bad") == 40
    assert not Path("out").exists()
    assert run("info", *bad, code=1).stderr.count("calotype: error: bad") == 40


def test_what_is_no_calo_file(calo: Path) -> None:
    for command in ("decode", "info"):
        assert "a.png: not a calotype file" in run(command, "a.png", code=1).stderr
        assert "gone.calo: No such file" in run(command, "gone.calo", code=1).stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calotype, "decode", lambda *_, **__: bytearray(1 << 62))
        assert "not enough memory" in run("decode", "a.calo", "b.png", code=1).stderr


def test_a_mistake_in_the_program_does_not_end_a_batch(calo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "encode_picture", lambda picture, **_: {}[picture.samples.shape])
    result = run("encode", "a.png", "a.png", "-o", "out", "--lossless", code=1)
    assert "a.png: unexpected KeyError: (70, 90, 3)" in result.stderr


def test_names_cannot_steer_the_terminal(folder: Path) -> None:
    assert "\x1b" not in run("encode", "no\x1b[31msuch.png", "--lossless", code=1).stderr
    if os.name != "nt":
        name = os.fsdecode(b"caf\xe9.png")
        picture().save(name)
        assert "caf?.png -> caf?.calo" in run("encode", name, "--lossless").stderr
        run("info", name.replace("png", "calo"))
        run("info", name.replace("png", "calo"), "--json")


# Formats of the output


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_formats_hold_the_picture_or_say_why_not(folder: Path, suffix: str, mode: str) -> None:
    Path("b.calo").write_bytes(calotype.encode(picture(mode), lossless=True))
    if mode not in FORMATS[suffix].modes:
        result = run("decode", "b.calo", "--format", suffix, code=1)
        assert re.search("does not hold (16 bits a sample|transparency): use png or", result.stderr)
        assert f"b.{suffix}" not in names(folder)
        return
    run("decode", "b.calo", "--format", suffix)
    with Image.open(f"b.{suffix}") as image:
        assert image.format == FORMATS[suffix].name
        got = np.asarray(image if mode == "I;16" else image.convert(mode)).astype(int)
    error = np.abs(got - np.asarray(picture(mode)).astype(int))
    assert error.mean() < 3 if suffix in ("jpg", "jpeg", "avif") else error.max() == 0


def test_alpha_that_is_opaque_goes_into_jpeg(folder: Path) -> None:
    opaque = picture()
    opaque.putalpha(255)
    Path("b.calo").write_bytes(calotype.encode(opaque, lossless=True))
    run("decode", "b.calo", "b.jpg")


@pytest.mark.parametrize("suffix", [suffix for suffix, form in FORMATS.items() if form.metadata])
def test_metadata_is_passed_on(folder: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[274], exif[271], exif[34665] = 6, "maker", {36867: "2020:02:02 02:02:02"}
    profile = b"\0\0\1\x40" + bytes(12) + b"RGB " + bytes(300)
    picture().save("b.webp", lossless=True, exif=exif, icc_profile=profile, xmp=b"<x:xmpmeta/>")
    run("encode", "b.webp", "--lossless")
    run("decode", "b.calo", f"c.{suffix}")
    with Image.open(f"c.{suffix}") as image:
        found = image.getexif()
        assert found[271] == "maker"
        assert found.get_ifd(34665)[36867] == "2020:02:02 02:02:02"
        assert (image.info["icc_profile"], image.info["xmp"]) == (profile, b"<x:xmpmeta/>")
        assert ImageOps.exif_transpose(image).size == (70, 90)


def test_orientation_is_applied_where_it_cannot_be_kept(folder: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    picture().save("b.png", exif=exif)
    run("encode", "b.png", "--lossless")
    assert "without exif" in run("decode", "b.calo", "c.bmp").stderr
    with Image.open("b.png") as before, Image.open("c.bmp") as after:
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(before)), np.asarray(after))


def test_metadata_of_a_tiled_tiff_does_not_break_another_tiff(folder: Path) -> None:
    layout = {322: 16, 323: 16, 317: 2, 33432: "me"}
    exif = Image.Exif()
    for tag, value in layout.items():
        exif[tag] = value
    picture().save("b.png", exif=exif)
    run("encode", "b.png", "--lossless")
    run("decode", "b.calo", "c.tif")
    with Image.open("c.tif") as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(picture()))
        assert image.getexif()[33432] == "me"


@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_arrays_say_what_metadata_they_leave_out(folder: Path, suffix: str) -> None:
    whole = container.unpack(calotype.encode(np.full((8, 1100, 3), 1000, np.uint16), lossless=True))
    assert len(whole.tiles) > 1
    assert "without" not in run("decode", _written("a.calo", whole, {}), f"a.{suffix}").stderr
    metadata = {Metadata.EXIF: b"MM", Metadata.ICC: b"profile", Metadata.XMP: b"<x/>"}
    said = run("decode", _written("b.calo", whole, metadata), f"b.{suffix}").stderr
    assert "without exif, icc_profile, xmp" in said


def _written(name: str, whole: container.Container, metadata: dict[Metadata, bytes]) -> str:
    Path(name).write_bytes(container.pack(whole.header, metadata, [bytes(tile) for tile in whole.tiles]))
    return name


def test_16_bit_colour_is_never_cut_without_a_word(folder: Path) -> None:
    Path("deep.png").write_bytes(raw_png(3, 1, 16, 2, bytes(range(19))))
    assert "colour of over 8 bits a sample read as 8" in run("encode", "deep.png", "-e", "1").stderr
    assert "--lossless cannot keep it" in run("encode", "deep.png", "b.calo", "--lossless", code=1).stderr
    deep = np.full((4, 5, 3), 1000, np.uint16)
    Path("c.calo").write_bytes(calotype.encode(deep, lossless=True))
    assert "16-bit colour written as 8 bits" in run("decode", "c.calo").stderr
    for bands_of_it in (deep, np.dstack([deep, deep[..., :1]]), deep[..., :2]):  # of these the last counts as alpha
        Path("d.calo").write_bytes(calotype.encode(bands_of_it, lossless=True))
        run("decode", "d.calo", "d.tif", "--overwrite")
        with Path("d.tif").open("rb") as stream:
            np.testing.assert_array_equal(bands.read(stream), bands_of_it)


# info and models


def test_info(calo: Path) -> None:
    run("encode", "a.png", "b.calo", "-q", "50")
    rows = json.loads(run("info", "a.calo", "b.calo", "--json").stdout)
    assert [row["file"] for row in rows] == ["a.calo", "b.calo"]
    assert (rows[0]["lossless"], rows[0]["width"], rows[0]["file_bytes"]) == (True, 90, calo.stat().st_size)
    text = run("info", "a.calo", "b.calo").stdout
    assert re.search(r"^a\.calo$", text, re.MULTILINE)
    assert re.search(r"picture +90 x 70, RGB, 8 bits", text)
    assert re.search(r"coding +lossless", text)
    result = run("info", "gone.calo", "a.calo", "--json", code=1)
    assert [row["file"] for row in json.loads(result.stdout)] == ["a.calo"]
    assert json.loads(run("info", "-", "--json", stdin=calo.read_bytes()).stdout)[0]["width"] == 90


def test_models() -> None:
    installed = calotype.models()
    rows = json.loads(run("models", "--json").stdout)
    assert [(row["name"], row["id"]) for row in rows] == [(bundle.name, bundle.id.hex()) for bundle in installed]
    for bundle in installed:
        assert re.search(rf"{bundle.name} +{bundle.version} +{bundle.status} +{bundle.id.hex()}", run("models").stdout)


def test_no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calotype, "models", list)
    assert json.loads(run("models", "--json").stdout) == []
    assert "no models" in run("models").stderr


# The program


def test_version_and_help() -> None:
    assert run("--version").stdout == f"calotype {calotype.__version__}\n"
    for command in COMMANDS:
        assert command in run("--help").stdout
        assert "--help" in run(command, "-h").stdout


def test_the_program_loads_neither_torch_nor_onnxruntime() -> None:
    code = """
import contextlib, sys
from calotype.cli import main
sys.argv = ["calotype", "--help"]
with contextlib.suppress(SystemExit):
    main()
sys.exit(bool({'torch', 'onnxruntime', 'onnx'} & set(sys.modules)))
"""
    env = os.environ | {"PYTHONPATH": str(Path(calotype.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_without_standard_error_nothing_is_said_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    say("a line")
    assert list(watched([1, 2], 2)) == [1, 2]
    assert capsys.readouterr().out == ""


@posix_only
def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    picture(size=(600, 500)).save("big.png")
    process = program("encode", "big.png", "-o", "-", "--lossless", "--quiet")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait() == 1
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()


@posix_only
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_stops_quietly(folder: Path, jobs: int) -> None:
    for number in range(60):
        picture(size=(100, 80), seed=number).save(f"p{number:02}.png")
    process = program("encode", "-r", ".", "-o", "out", "--psnr", "30", "-j", jobs)
    assert process.stderr is not None
    while b"->" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=200)
    assert process.returncode == 130
    assert b"Traceback" not in rest
    assert all(name.endswith(".calo") for name in names(folder / "out"))
    assert len(names(folder / "out")) < 50


def test_a_head_that_one_files_model_lacks_stops_no_other(
    folder: Path, digits_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digit = Image.new("L", (8, 8), 99)
    for name, data in (
        ("1", calotype.encode(picture(), quality=30)),
        ("2", calotype.encode(digit, model=digits_model)),
        ("3", calotype.encode(picture(seed=2), quality=30)),
    ):
        Path(f"{name}.calo").write_bytes(data)
    monkeypatch.setenv("CALOTYPE_MODELS", str(digits_model.parent))
    done = run("decode", "1.calo", "2.calo", "3.calo", "-o", "out", "--head", "visual", code=1)
    assert "2.calo: head 'visual'" in done.stderr
    assert names(Path("out")) == {"1.png", "3.png"}


def test_folders_are_inputs_of_a_recursive_decode(calo: Path) -> None:
    for folder in ("one", "two"):
        Path(folder).mkdir()
        Path(folder, "a.calo").write_bytes(calo.read_bytes())
    run("decode", "-r", "one", "two")
    assert names(Path("one")) == names(Path("two")) == {"a.calo", "a.png"}


@posix_only
def test_a_file_that_is_replaced_keeps_who_may_read_it(folder: Path) -> None:
    run("encode", "a.png", "--lossless")
    Path("a.calo").chmod(0o600)
    run("encode", "a.png", "--lossless", "--overwrite")
    assert Path("a.calo").stat().st_mode & 0o777 == 0o600


def test_an_empty_data_home_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALOTYPE_MODELS", raising=False)
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, "")
    assert library.user_folder().is_absolute()
