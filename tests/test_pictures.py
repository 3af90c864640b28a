"""Pictures of every kind, through Pillow."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import calotype
import calotype.pillow
from calotype.errors import InputError
from conftest import psnr_db


@pytest.fixture(scope="module", autouse=True)
def _plugin() -> None:
    calotype.pillow.register()
    calotype.pillow.register()


def _round_trip(picture: Image.Image, **options: object) -> Image.Image:
    return calotype.decode(calotype.encode(picture, **options))


def _with_exif(picture: Image.Image, orientation: int) -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a maker"
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    return Image.open(buffer)


def test_grey_decodes_as_grey(small_photo: Image.Image) -> None:
    grey = small_photo.convert("L")
    decoded = _round_trip(grey, quality=80)
    assert decoded.mode == "L"
    assert psnr_db(grey, decoded) > 34


def test_alpha_is_kept_exactly(small_photo: Image.Image, rng: np.random.Generator) -> None:
    alpha = Image.fromarray(rng.integers(0, 256, small_photo.size[::-1], dtype=np.uint8))
    for mode in ("RGB", "L"):
        picture = small_photo.convert(mode)
        picture.putalpha(alpha)
        decoded = _round_trip(picture, quality=50)
        assert decoded.mode == picture.mode
        np.testing.assert_array_equal(np.asarray(decoded)[..., -1], np.asarray(alpha))


@pytest.mark.parametrize(
    ("mode", "result"), [("P", "RGB"), ("1", "L"), ("CMYK", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB")]
)
def test_converted_modes(small_photo: Image.Image, mode: str, result: str) -> None:
    picture = small_photo.convert(mode)
    decoded = _round_trip(picture, quality=95)
    assert decoded.mode == result
    assert psnr_db(picture.convert(result), decoded) > 20  # dithering is noise


def test_transparent_palette(small_photo: Image.Image) -> None:
    picture = small_photo.convert("P")
    picture.info["transparency"] = 3
    decoded = _round_trip(picture)
    assert decoded.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(decoded)[..., 3], np.asarray(picture.convert("RGBA"))[..., 3])


def test_16_bit_grey(small_photo: Image.Image) -> None:
    wide = np.asarray(small_photo.convert("L")).astype(np.uint16) * 257
    for picture in (Image.fromarray(wide), Image.fromarray(wide.astype(np.int32))):
        decoded = _round_trip(picture, quality=90)
        assert decoded.mode == "I;16"
        assert psnr_db(wide, np.asarray(decoded)) > 36
    with pytest.raises(InputError, match="65535"):
        calotype.encode(Image.fromarray(wide.astype(np.int32) * 2))


def test_floats_and_animations_are_refused(small_photo: Image.Image) -> None:
    with pytest.raises(InputError, match="mode F"):
        calotype.encode(small_photo.convert("F"))
    buffer = io.BytesIO()
    small_photo.save(buffer, "GIF", save_all=True, append_images=[small_photo.rotate(9)])
    with pytest.raises(InputError, match="2 pictures"):
        calotype.encode(Image.open(buffer))


def test_metadata_is_kept(small_photo: Image.Image) -> None:
    picture = _with_exif(small_photo, orientation=6)
    picture.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.info["xmp"] = b"<x:xmpmeta/>"
    decoded = _round_trip(picture)
    assert decoded.size == picture.size
    assert decoded.getexif()[0x0112] == 6
    assert decoded.getexif()[0x010F] == "a maker"
    assert decoded.info["icc_profile"] == picture.info["icc_profile"]
    assert decoded.info["xmp"] == b"<x:xmpmeta/>"
    assert set(calotype.info(calotype.encode(picture)).metadata) == {"exif", "icc", "xmp"}


def test_tiff_is_turned_once(small_photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    small_photo.save(buffer, "TIFF", exif=exif.tobytes(), icc_profile=b"x" * 3000)
    decoded = _round_trip(Image.open(buffer), lossless=True)
    assert decoded.size == small_photo.size[::-1]
    assert 0x0112 not in decoded.getexif()
    assert len(decoded.info.get("exif", b"")) < 200


@pytest.mark.parametrize("strip", [True, False])
def test_broken_exif(small_photo: Image.Image, strip: bool) -> None:
    buffer = io.BytesIO()
    small_photo.save(buffer, "WEBP", exif=b"Exif\0\0M\xff\0*\0\0\0\x08")
    picture = Image.open(buffer)
    if strip:
        with pytest.raises(InputError, match="EXIF"):
            calotype.encode(picture, strip=True)
    else:
        assert _round_trip(picture).info["exif"].endswith(b"M\xff\0*\0\0\0\x08")


def test_truncated_input(small_photo: Image.Image) -> None:
    buffer = io.BytesIO()
    small_photo.save(buffer, "PNG")
    with pytest.raises(InputError, match="cannot be read"):
        calotype.encode(Image.open(io.BytesIO(buffer.getvalue()[:-5000])))


def test_strip_applies_the_orientation(small_photo: Image.Image) -> None:
    picture = _with_exif(small_photo, orientation=6)
    decoded = _round_trip(picture, strip=True, quality=90)
    assert decoded.size == picture.size[::-1]
    assert not decoded.getexif()
    assert psnr_db(small_photo.rotate(-90, expand=True), decoded) > 30


def test_profile_of_another_colour_space_is_dropped(small_photo: Image.Image) -> None:
    picture = small_photo.convert("L")
    picture.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert "icc_profile" not in _round_trip(picture).info


def test_plugin_opens_lazily(small_file: bytes, small_photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "x.calo"
    path.write_bytes(small_file)
    with Image.open(path) as picture:
        assert (picture.format, picture.size, picture.mode) == ("CALO", small_photo.size, "RGB")
        assert picture.get_format_mimetype() == "image/x-calotype"
        assert psnr_db(small_photo, picture) > 28
        np.testing.assert_array_equal(np.asarray(picture), calotype.decode_array(small_file))


def test_plugin_saves(small_photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "x.calo"
    small_photo.save(path, quality=60, effort=1, exif=_with_exif(small_photo, 3).getexif(), xmp=b"<x/>")
    with Image.open(path) as picture:
        assert picture.getexif()[0x0112] == 3
        assert picture.info["xmp"] == b"<x/>"
    small_photo.save(path, lossless=True)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(small_photo))


def test_plugin_errors_are_pillows(small_file: bytes, small_photo: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="quality"):
        small_photo.save(tmp_path / "x.calo", quality=101)
    assert not (tmp_path / "x.calo").exists()
    damaged = bytearray(small_file)
    damaged[-10] ^= 1
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(bytes(damaged)))


def test_plugin_pickles_and_copies(small_file: bytes) -> None:
    with Image.open(io.BytesIO(small_file)) as picture:
        assert picture.copy().size == picture.size
        assert picture.convert("L").mode == "L"
        assert picture.crop((0, 0, 5, 5)).size == (5, 5)


def test_formats_people_have(small_photo: Image.Image, tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "webp", "avif", "tif", "bmp", "gif", "ppm", "tga"):
        path = tmp_path / f"x.{suffix}"
        small_photo.save(path)
        with Image.open(path) as picture:
            decoded = _round_trip(picture, quality=80)
            assert psnr_db(picture.convert(decoded.mode), decoded) > 27
