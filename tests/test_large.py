from __future__ import annotations

import io
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import calotype
import calotype.pillow
from calotype import bundle, container
from calotype.cli import app
from calotype.errors import DamagedFile, InputError, LimitExceeded, OptionError
from calotype.learn.export import family, members
from calotype.learn.model import Codec
from calotype.pixels import reduced, to_unit
from calotype.prior import Latents, decode_tile
from conftest import psnr_db
from test_learn import CARD, SMALL

WIDTH, HEIGHT = 500, 420
REGIONS = [(0, 0, 1, 1), (120, 130, 200, 90), (128, 128, 128, 128), (0, 256, 500, 164), (499, 419, 1, 1)]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 128 pixels, in windows of 256, so that a small picture counts as large."""
    monkeypatch.setattr("calotype.encoder.LARGEST_TILE_PX", 64)
    monkeypatch.setattr("calotype.encoder.TILE_PX", 128)
    monkeypatch.setattr("calotype.decoder.WINDOW_PX", 256)


@pytest.fixture
def picture(photo: Image.Image) -> Image.Image:
    return photo.crop((0, 20, WIDTH, 20 + HEIGHT))


def _with_alpha(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGBA")
    picture.putalpha(picture.getchannel("R").rotate(90, expand=False))
    return picture


def _inside(whole: np.ndarray, region: tuple[int, int, int, int]) -> np.ndarray:
    x, y, width, height = region
    return whole[y : y + height, x : x + width]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kind", ["photo", "alpha", "grey", "lossless", "16 bits", "visual"])
def test_a_region_is_the_crop_of_the_whole(picture: Image.Image, kind: str) -> None:
    image = {"alpha": _with_alpha(picture), "grey": picture.convert("L"), "lossless": _with_alpha(picture)}.get(kind)
    array = np.asarray(picture).astype(np.uint16) * 257 if kind == "16 bits" else np.asarray(image or picture)
    rate = {"lossless": kind == "lossless", "head": "visual" if kind == "visual" else None}
    data = calotype.encode(array, **rate)
    assert calotype.info(data).tiles == 16
    whole = calotype.decode_array(data)
    assert psnr_db(array, whole) > 26
    most = 257 if kind == "16 bits" else 0 if kind == "lossless" else 1
    for region in REGIONS:
        part = calotype.decode_array(data, region=region)
        assert np.abs(part.astype(int) - _inside(whole, region)).max() <= most
    np.testing.assert_array_equal(calotype.decode(data).convert("RGB"), _as_rgb(whole))


def _as_rgb(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.asarray(Image.fromarray(array).convert("RGB"))


@pytest.mark.usefixtures("small_tiles")
def test_windows_leave_no_seam(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file, synthesised in windows and in one piece; also from a picture much wider than high."""
    for image in (picture, picture.crop((0, 100, WIDTH, 200))):
        data = calotype.encode(image, quality=50)
        in_windows = calotype.decode_array(data)
        with monkeypatch.context() as patch:
            patch.setattr("calotype.decoder.WINDOW_PX", 4096)
            in_one_piece = calotype.decode_array(data)
        assert np.abs(in_windows.astype(int) - in_one_piece).max() <= 1


@pytest.mark.usefixtures("small_tiles")
def test_tiles_analyse_as_one_piece_does(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    in_tiles = calotype.latents(picture)
    monkeypatch.setattr("calotype.encoder.HALO_PX", 4096)
    in_one_piece = calotype.latents(picture)
    different = np.mean([np.mean(a.y8 != b.y8) for a, b in zip(in_tiles, in_one_piece, strict=True)])
    assert different < 1e-3


@pytest.mark.usefixtures("small_tiles")
def test_tiles_are_searched_as_in_one_piece(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(data: bytes) -> tuple[float, float]:
        return len(data), psnr_db(picture, calotype.decode(data))

    tiles_bytes, tiles_db = cost(calotype.encode(picture, quality=40, effort=4))
    monkeypatch.setattr("calotype.encoder.HALO_PX", 4096)
    piece_bytes, piece_db = cost(calotype.encode(picture, quality=40, effort=4))
    assert tiles_bytes < 1.005 * piece_bytes
    assert tiles_db > piece_db - 0.02


@pytest.mark.usefixtures("small_tiles")
def test_threads_change_nothing(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    image = _with_alpha(picture)
    results = list[tuple[bytes, bytes]]()
    for cores in (1, 5):
        monkeypatch.setattr("calotype.threads.cores", lambda cores=cores: cores)
        data = calotype.encode(image, quality=30)
        results.append((data, calotype.decode(data).tobytes()))
    assert results[0] == results[1]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("lossless", [False, True])
def test_previews_are_means(picture: Image.Image, lossless: bool) -> None:
    data = calotype.encode(_with_alpha(picture), lossless=lossless)
    whole = calotype.decode_array(data)
    for n in (2, 8, 16, 64):
        preview = calotype.decode_array(data, preview=n)
        wanted = reduced(whole, n)
        assert preview.shape == wanted.shape == (-(-HEIGHT // n), -(-WIDTH // n), 4)
        np.testing.assert_array_equal(preview[..., 3], wanted[..., 3])
        assert psnr_db(preview, wanted) > (40 if lossless or n < 16 else 24)
    assert calotype.decode(data, preview=16).size == (32, 27)


def test_thumbnails_by_pillow(small_file: bytes) -> None:
    calotype.pillow.register()
    with Image.open(io.BytesIO(small_file)) as image:
        image.draft(None, (24, 18))
        assert image.size == (25, 19)
        np.testing.assert_array_equal(image, calotype.decode(small_file, preview=8))
    with Image.open(io.BytesIO(small_file)) as image:
        image.draft(None, (150, 100))
        assert image.size == (200, 151)
        image.thumbnail((20, 20))
        assert image.size == (20, 15)


def test_reduced_is_the_mean_of_what_there_is() -> None:
    samples = np.arange(15, dtype=np.uint16).reshape(3, 5, 1)
    np.testing.assert_array_equal(reduced(samples, 2)[:, :, 0], [[3, 5, 7], [11, 13, 14]])


@pytest.mark.parametrize(
    "options",
    [
        {"region": (0, 0, 0, 5)}, {"region": (-1, 0, 5, 5)}, {"region": (0, -1, 5, 5)}, {"region": (0, 0, 5, -1)},
        {"region": (0, 0, 5)}, {"region": (0, 0, 5, 5.5)}, {"region": 7}, {"preview": 0}, {"preview": 3},
        {"preview": 128}, {"preview": 2, "region": (0, 0, 5, 5)},
    ],
)  # fmt: skip
def test_views_that_there_are_not(small_file: bytes, options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        calotype.decode(small_file, **options)


@pytest.mark.parametrize("region", [(100, 0, 101, 1), (0, 151, 1, 1), (200, 0, 1, 1)])
def test_regions_beyond_this_picture(small_file: bytes, region: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match="200x151"):
        calotype.decode(small_file, region=region)


def test_a_picture_without_the_region_does_not_end_a_batch(tmp_path: Path) -> None:
    for name, side in (("a", 30), ("b", 9), ("c", 30)):
        (tmp_path / f"{name}.calo").write_bytes(calotype.encode(np.zeros((side, side), np.uint8), lossless=True))
    result = CliRunner().invoke(app, ["decode", "-r", str(tmp_path), "--region", "5,5,20,20"])
    assert result.exit_code == 1
    assert "b.calo: region" in result.stderr
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["a.png", "c.png"]


def test_a_small_region_of_a_picture_over_the_limit(small_file: bytes) -> None:
    assert calotype.decode(small_file, region=(10, 20, 30, 40), max_pixels=1200).size == (30, 40)
    with pytest.raises(LimitExceeded):
        calotype.decode(small_file, region=(10, 20, 30, 41), max_pixels=1200)
    with pytest.raises(LimitExceeded):
        calotype.decode(small_file, preview=16, max_pixels=1200)


@pytest.mark.usefixtures("small_tiles")
def test_a_region_reads_only_its_tiles(picture: Image.Image, tmp_path: Path) -> None:
    data = calotype.encode(picture, quality=30)
    wanted = calotype.decode_array(data, region=(0, 0, 60, 60))
    last_tile = container.unpack(data).tiles[-1]
    damaged = data[: -len(last_tile) - 4] + bytes(len(last_tile)) + data[-4:]
    path = tmp_path / "damaged.calo"
    path.write_bytes(damaged)
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    np.testing.assert_array_equal(calotype.decode_array(view, region=(0, 0, 60, 60)), wanted)
    with pytest.raises(DamagedFile, match="checksum"):
        calotype.decode(view)
    with pytest.raises(DamagedFile, match="checksum"):
        calotype.decode(view, region=(450, 400, 10, 10))
    with pytest.raises(DamagedFile):
        calotype.decode(damaged[:-1], region=(0, 0, 60, 60))


def test_a_region_of_512_pixels_takes_four_tiles_at_most(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    data = calotype.encode(photo.resize((1728, 1728)), quality=0, effort=1)
    tiles = list[int]()

    def counted(*args: Any) -> Latents:
        tiles.append(1)
        return decode_tile(*args)

    monkeypatch.setattr("calotype.decoder.decode_tile", counted)
    for x, y, expected in ((608, 608, 1), (32, 33, 2), (607, 600, 4), (575, 559, 4), (300, 900, 4), (1216, 1216, 1)):
        tiles.clear()
        calotype.decode(data, region=(x, y, 512, 512))
        assert len(tiles) == expected, (x, y)


@pytest.mark.usefixtures("small_tiles")
def test_on_the_command_line(picture: Image.Image, tmp_path: Path) -> None:
    path, out = tmp_path / "a.calo", tmp_path / "a.png"
    path.write_bytes(calotype.encode(picture))
    for options, size in ((["--region", "100,120,300,33"], (300, 33)), (["--preview", "4"], (125, 105))):
        result = CliRunner().invoke(app, ["decode", str(path), str(out), "--overwrite", *options])
        assert result.exit_code == 0, result.stderr
        with Image.open(out) as image:
            assert image.size == size
    for options in (["--region", "0,0,9"], ["--region", "0,0,501,1"], ["--preview", "3"], ["--region", "0,0,1,-1"]):
        result = CliRunner().invoke(app, ["decode", str(path), str(out), "--overwrite", *options])
        assert result.exit_code != 0
        assert "unexpected" not in result.stderr


def test_a_memory_map_is_encoded_as_it_is(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.asarray(_with_alpha(picture)))
    assert calotype.encode(np.load(path, mmap_mode="r")) == calotype.encode(_with_alpha(picture))


def test_unit_of_a_view(rng: np.random.Generator) -> None:
    samples = rng.integers(0, 256, (9, 7, 4), dtype=np.uint8)
    np.testing.assert_array_equal(to_unit(samples[2:5, 1:4, :3]), to_unit(samples[2:5, 1:4, :3].copy()))


def test_pictures_over_the_limit_are_refused_before_they_are_decoded(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture.save(path)
    for most, status in ((WIDTH * HEIGHT - 1, 1), (1000, 1), (WIDTH * HEIGHT, 0), (0, 0)):
        options = ["--max-pixels", str(most), "--overwrite", "--effort", "1"]
        result = CliRunner().invoke(app, ["encode", str(path), *options])
        assert result.exit_code == status
        assert ("--max-pixels" in result.stderr) == bool(status)
    assert Image.MAX_IMAGE_PIXELS < calotype.codec.MAX_PIXELS


@pytest.mark.parametrize("name", ["bands.npy", "pages.tif", "page.tif"])
@pytest.mark.parametrize("most", [9, 17, 18])
def test_bands_over_the_limit_are_refused(tmp_path: Path, name: str, most: int) -> None:
    path, bands = tmp_path / name, np.zeros((3, 6, 3), np.uint8)
    if name == "bands.npy":
        np.save(path, bands)
    else:
        first, *others = map(Image.fromarray, bands.transpose(2, 0, 1))
        first.save(path, save_all=True, append_images=others if name == "pages.tif" else [])
    result = CliRunner().invoke(app, ["encode", str(path), "--lossless", "--max-pixels", str(most)])
    assert (result.exit_code == 0) == (most == 18)
    assert (f"more than {most} pixels: --max-pixels" in result.stderr) == (most < 18)


def test_the_limit_is_of_pixels_not_of_planes(tmp_path: Path) -> None:
    path = tmp_path / "deep.npy"
    np.save(path, np.arange(18, dtype=np.uint16).reshape(3, 6) * 3000)
    options = ["--lossless", "--verify", "--max-pixels", "18"]
    result = CliRunner().invoke(app, ["encode", str(path), *options])
    assert result.exit_code == 0, result.stderr


def test_pack_takes_what_encode_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calotype.cli.pack.MAX_PIXELS", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    for name, side in (("a", 30), ("b", 40)):
        Image.new("L", (side, side)).save(tmp_path / f"{name}.png")
    result = CliRunner().invoke(app, ["pack", str(tmp_path), str(tmp_path / "x.caloset"), "--lossless"])
    assert result.exit_code == 1
    assert "b.png: more than 1000 pixels" in result.stderr
    assert "a.png stored" in result.stderr


def test_large_outputs_are_seen_as_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.calo"
    path.write_bytes(calotype.encode(np.zeros((30, 30), np.uint8), lossless=True))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert CliRunner().invoke(app, ["decode", str(path)]).exit_code == 0
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    result = CliRunner().invoke(app, ["decode", str(path), "--resume"])
    assert result.exit_code == 0
    assert "1 done before" in result.stderr


MEASURE = """
import sys
import numpy as np, calotype
def peak_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
def run(height):
    picture = np.empty((height, 2000, 3), np.uint8)
    picture[:] = np.arange(2000, dtype=np.uint8)[:, None]
    data = calotype.encode(picture, quality=30, effort=1, model=sys.argv[1])
    encoded = peak_bytes()
    calotype.decode_array(data, model=sys.argv[1])
    return encoded, peak_bytes()
run(2000)
small, large = run(2000), run(9000)
print(*(b - a for a, b in zip(small, large)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process without that of its parent: Linux alone")
def test_memory_does_not_grow_by_floats(tmp_path: Path) -> None:
    """Samples before and after coding are 6 bytes a pixel; a whole picture of float32 would be 12 more."""
    path = tmp_path / "small.calomodel"
    bundle.write(path, members(Codec(SMALL), CARD, family())[0])
    done = subprocess.run([sys.executable, "-c", MEASURE, path], check=True, capture_output=True, text=True)
    for growth_bytes in map(int, done.stdout.split()):
        assert growth_bytes < 10 * 2000 * 7000
