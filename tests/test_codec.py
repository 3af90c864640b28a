from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

import calotype
from calotype.errors import (
    CalotypeError,
    DamagedFile,
    FormatError,
    InputError,
    LimitExceeded,
    ModelNotFound,
    OptionError,
)
from calotype.header import Header
from conftest import psnr_db


def test_quality_rises(photo: Image.Image) -> None:
    files = [calotype.encode(photo, quality=q) for q in (0, 30, 60, 100)]
    quality_db = [psnr_db(photo, calotype.decode(f)) for f in files]
    assert sorted(map(len, files)) == [len(f) for f in files]
    assert sorted(quality_db) == quality_db
    assert quality_db[0] > 24
    assert quality_db[-1] > 38


def test_beats_webp_at_equal_bytes(photo: Image.Image) -> None:
    buffer = io.BytesIO()
    photo.save(buffer, "WEBP", quality=60)
    ours = calotype.encode(photo, size=buffer.tell())
    assert len(ours) <= buffer.tell()
    assert psnr_db(photo, calotype.decode(ours)) > psnr_db(photo, Image.open(buffer).convert("RGB")) + 0.5


def test_overhead(photo: Image.Image) -> None:
    """Header, chunk and checksums of a picture of one tile take at most 48 bytes."""
    data = calotype.encode(photo, quality=30)
    whole = calotype.container.unpack(data)
    assert len(whole.tiles) == 1
    assert len(data) - len(whole.tiles[0]) - len(whole.postfilter) + 4 <= 48


@pytest.mark.parametrize("size_bytes", [6000, 12_000, 30_000])
def test_size(photo: Image.Image, size_bytes: int) -> None:
    data = calotype.encode(photo, size=size_bytes)
    assert 0.93 * size_bytes < len(data) <= size_bytes


def test_bpp(photo: Image.Image) -> None:
    assert 0.93 * 0.5 < calotype.info(calotype.encode(photo, bpp=0.5)).bpp <= 0.5


def test_psnr(small_photo: Image.Image) -> None:
    assert 34 <= psnr_db(small_photo, calotype.decode(calotype.encode(small_photo, psnr=34))) < 35


@pytest.mark.parametrize("rate", [{"size": 60}, {"bpp": 0.001}, {"psnr": 90}])
def test_rates_out_of_reach_say_so(photo: Image.Image, rate: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(rate)) if "psnr" in rate else "smallest"):
        calotype.encode(photo, **rate)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 101}, {"quality": -1}, {"quality": float("nan")}, {"quality": "60"}, {"quality": True},
        {"size": 0}, {"psnr": 500}, {"effort": 0}, {"effort": 10},
        {"quality": 50, "size": 9000}, {"quality": 50, "lossless": True}, {"bpp": 1, "psnr": 30},
    ],
)  # fmt: skip
def test_bad_options(small_photo: Image.Image, options: dict[str, object]) -> None:
    with pytest.raises(OptionError) as caught:
        calotype.encode(small_photo, **options)
    assert isinstance(caught.value, ValueError)
    assert all(name in str(caught.value) for name in options)


def test_effort_spends_fewer_bits(photo: Image.Image) -> None:
    """At a PSNR that is no lower: effort 4 against effort 1."""
    plain = calotype.encode(photo, quality=50, effort=1)
    target_db = psnr_db(photo, calotype.decode(plain))
    assert len(calotype.encode(photo, psnr=target_db, effort=4)) < len(plain)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.sampled_from([1, 3, 4]), st.integers(0, 100))
def test_any_small_size(photo: Image.Image, width: int, height: int, channels: int, quality: int) -> None:
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    picture = photo.crop((100, 50, 100 + width, 50 + height)).convert(mode)
    decoded = calotype.decode(calotype.encode(picture, quality=quality))
    assert (decoded.size, decoded.mode) == (picture.size, picture.mode)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2), (65, 1027), (1100, 520)])
def test_extreme_shapes(photo: Image.Image, size: tuple[int, int]) -> None:
    picture = photo.resize(size)
    decoded = calotype.decode(calotype.encode(picture, quality=70))
    assert decoded.size == size
    assert psnr_db(picture, decoded) > 24


def test_preview_resembles_the_picture(photo: Image.Image) -> None:
    from calotype.codec import runtime_of
    from calotype.library import find

    data = calotype.encode(photo, quality=60)
    (tile,) = calotype.latents(data)
    level = calotype.info(data).level
    assert level is not None
    thumbnail = runtime_of(find("photo")).preview(tile.y_hat, level)
    wanted = calotype.pixels.to_unit(np.asarray(photo.reduce(16)))
    assert thumbnail.shape == wanted.shape
    assert np.corrcoef(thumbnail.ravel(), wanted.ravel())[0, 1] > 0.95


def test_arrays(photo: Image.Image) -> None:
    rgb = np.asarray(photo)[:100, :90]
    for array in (rgb, rgb[:, :, 0], np.dstack([rgb, rgb[:, :, :1]]), rgb[:, :, :2], rgb.astype(np.uint16) * 257):
        decoded = calotype.decode_array(calotype.encode(array, quality=80))
        assert (decoded.shape, decoded.dtype) == (array.shape, array.dtype)
        colour = slice(None) if array.ndim == 2 or array.shape[2] == 3 else slice(array.shape[2] - 1)
        assert psnr_db(array[..., colour], decoded[..., colour]) > 28


@pytest.mark.parametrize("array", [np.zeros((4, 4), float), np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4), np.uint8)])
def test_bad_arrays(array: np.ndarray) -> None:
    with pytest.raises(InputError):
        calotype.encode(array)
    with pytest.raises(InputError, match="list"):
        calotype.encode([[1]])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["RGB", "L", "RGBA", "LA", "rgb16", "grey16", "rgba16"])
def test_lossless(photo: Image.Image, rng: np.random.Generator, kind: str) -> None:
    if kind.endswith("16"):
        shape = {"rgb16": (70, 50, 3), "grey16": (70, 50), "rgba16": (70, 50, 4)}[kind]
        array = rng.integers(0, 65536, shape, dtype=np.uint16)
    else:
        picture = photo.convert(kind)
        picture.putalpha(photo.convert("L")) if kind.endswith("A") else None
        array = np.asarray(picture)
    data = calotype.encode(array, lossless=True)
    np.testing.assert_array_equal(calotype.decode_array(data), array)
    assert calotype.info(data).lossless


def _screenshot() -> Image.Image:
    picture = Image.new("RGB", (400, 300), (250, 250, 250))
    draw = ImageDraw.Draw(picture)
    for row in range(12):
        draw.text((20, 20 + 22 * row), "The quick brown fox jumps over the lazy dog", fill=(20, 20, 60))
    draw.rectangle((250, 200, 380, 280), fill=(200, 30, 40))
    return picture


@pytest.mark.parametrize("quality", [40, 60, 90])
def test_screenshots_stay_sharp_and_small(quality: int) -> None:
    picture = _screenshot()
    png = io.BytesIO()
    picture.save(png, "PNG", optimize=True)
    data = calotype.encode(picture, quality=quality)
    assert len(data) < png.tell()
    assert psnr_db(picture, calotype.decode(data)) > 40


def test_icons_do_not_grow() -> None:
    icon = Image.new("RGBA", (32, 32))
    ImageDraw.Draw(icon).ellipse((4, 4, 28, 28), fill=(10, 120, 200, 255))
    data = calotype.encode(icon)
    assert calotype.info(data).lossless
    assert len(data) < 400
    np.testing.assert_array_equal(np.asarray(calotype.decode(data)), np.asarray(icon))


def test_info(small_file: bytes, small_photo: Image.Image) -> None:
    info = calotype.info(small_file)
    assert (info.width, info.height) == small_photo.size
    assert (info.channels, info.depth, info.has_alpha, info.lossless) == (3, 8, False, False)
    assert (info.model_name, info.head, info.level) == ("photo", "psnr", 128)
    assert info.model_id == calotype.models()[0].id.hex()
    assert info.bpp == pytest.approx(8 * len(small_file) / (info.width * info.height))


def test_latents_of_picture_and_file_agree(small_photo: Image.Image, small_file: bytes) -> None:
    (a,), (b,) = calotype.latents(small_photo, quality=50), calotype.latents(small_file)
    assert a.checksum() == b.checksum()
    with pytest.raises(InputError, match="lossless"):
        calotype.latents(calotype.encode(small_photo, lossless=True))


def test_ten_thousand_bit_flips(small_file: bytes, rng: np.random.Generator) -> None:
    for bit in rng.integers(0, 8 * len(small_file), 10_000):
        flipped = bytearray(small_file)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            calotype.decode(bytes(flipped))


def test_random_mutations_never_pass(small_file: bytes, rng: np.random.Generator) -> None:
    for _ in range(500):
        mutated = bytearray(small_file)
        a, b = sorted(rng.integers(0, len(mutated), 2).tolist())
        kind = rng.integers(4)
        if kind == 0:
            del mutated[a:b]
        elif kind == 1:
            mutated[a:a] = rng.bytes(1 + b % 7)
        elif kind == 2:
            mutated[a:b] = rng.bytes(b - a)
        else:
            mutated = mutated[b:] + mutated[:b]
        if bytes(mutated) != small_file:
            with pytest.raises(CalotypeError):
                calotype.decode(bytes(mutated))


def test_unknown_model(small_file: bytes) -> None:
    whole = calotype.container.unpack(small_file)
    assert whole.header.coding is not None
    from dataclasses import replace

    other = replace(whole.header, coding=replace(whole.header.coding, model_id=b"\xaa" * 8))
    data = calotype.container.pack(other, {}, [bytes(t) for t in whole.tiles])
    with pytest.raises(ModelNotFound, match="aaaaaaaaaaaaaaaa"):
        calotype.decode(data)
    assert calotype.info(data).model_name is None


def test_bomb_limit(small_file: bytes) -> None:
    with pytest.raises(LimitExceeded, match="over the limit"):
        calotype.decode(small_file, max_pixels=1000)


def test_lossless_block_of_another_size_is_refused(small_photo: Image.Image) -> None:
    whole = calotype.container.unpack(calotype.encode(small_photo, lossless=True))
    other = calotype.container.unpack(calotype.encode(small_photo.crop((0, 0, 64, 64)), lossless=True))
    for tile in (bytes(other.tiles[0]), b"", b"RIFF", bytes(whole.tiles[0])[:-40]):
        with pytest.raises(DamagedFile, match=r"lossless samples|cannot stand"):
            calotype.decode(calotype.container.pack(whole.header, {}, [tile]))


def test_garbage_under_a_right_checksum(small_file: bytes, rng: np.random.Generator) -> None:
    header = calotype.container.unpack(small_file).header
    for size in (0, 3, 4, 8, 12, 400, 403):
        with pytest.raises(CalotypeError):
            calotype.decode(calotype.container.pack(header, {}, [rng.bytes(size)]))


def test_webp_that_declares_more_is_refused_before_it_is_decoded(small_photo: Image.Image) -> None:
    whole = calotype.container.unpack(calotype.encode(small_photo, lossless=True))
    tile = bytearray(whole.tiles[0])
    tile[21:25] = (16382 | 16382 << 14).to_bytes(4, "little")
    with pytest.raises(DamagedFile, match="16383x16383"):
        calotype.decode(calotype.container.pack(whole.header, {}, [bytes(tile)]))
    with pytest.raises(DamagedFile, match="plain"):
        calotype.decode(calotype.container.pack(whole.header, {}, [bytes(whole.tiles[0]) + b"junk"]))


@pytest.mark.parametrize("rate", [{"size": 120}, {"psnr": 90}])
def test_lossless_meets_rates_that_no_level_does(rate: dict[str, float]) -> None:
    stripes = np.zeros((48, 48, 3), np.uint8)
    stripes[::3] = 255
    data = calotype.encode(stripes, **rate)
    assert calotype.info(data).lossless
    assert len(data) <= 120


def test_number_types(small_photo: Image.Image) -> None:
    assert calotype.encode(small_photo, quality=np.float32(50)) == calotype.encode(small_photo, quality=np.int64(50))
    big_endian = np.asarray(small_photo.convert("L")).astype(">u2")
    assert calotype.decode_array(calotype.encode(big_endian)).dtype == np.uint16
    with pytest.raises(OptionError):
        calotype.latents(small_photo, quality=101)


def test_other_colour_spaces_warn(small_file: bytes) -> None:
    from dataclasses import replace

    whole = calotype.container.unpack(small_file)
    header = replace(whole.header, cicp=(9, 16, 0, 1))
    data = calotype.container.pack(header, {}, [bytes(t) for t in whole.tiles])
    assert calotype.info(data).cicp == (9, 16, 0, 1)
    with pytest.warns(UserWarning, match="CICP"):
        calotype.decode(data)


def test_two_colour_channels_are_no_alpha() -> None:
    from calotype.lossless import pack

    samples = np.arange(32, dtype=np.uint8).reshape(4, 4, 2)
    header = Header(4, 4, 2, 8, alpha=False, tile_px=64, coding=None)
    data = calotype.container.pack(header, {}, [pack(samples)])
    np.testing.assert_array_equal(calotype.decode_array(data), samples)
    with pytest.raises(calotype.UnsupportedFile, match="channels"):
        calotype.decode(data)
