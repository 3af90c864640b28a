"""The old rivals: every file comes back, damage shows, and sizes are what theory says."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calotype.bench.classic import (
    deflate_decode,
    deflate_encode,
    huffman_decode,
    huffman_encode,
    klt_decode,
    klt_encode,
)
from calotype.bench.metrics import psnr_db

LOSSLESS = [(huffman_encode, huffman_decode), (deflate_encode, deflate_decode)]
CODECS = [(klt_encode, klt_decode), *LOSSLESS]
HEAD_BYTES = 12


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    """Noise around any colour, from none to the whole range."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    colour = draw(st.tuples(*[st.integers(0, 255)] * 3))
    noise = np.random.default_rng(draw(st.integers(0, 99))).normal(0, 1, (height, width, 3))
    pixels = np.asarray(colour) + draw(st.sampled_from([0, 1, 20, 300])) * noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@settings(max_examples=25, deadline=None)
@given(pictures(), st.floats(0, 100))
def test_lossless_files_come_back(image: Image.Image, quality: float) -> None:
    for encode, decode in LOSSLESS:
        assert decode(encode(image, quality)).tobytes() == image.tobytes()


@settings(max_examples=25, deadline=None)
@given(pictures(), st.floats(0, 100))
def test_klt_errs_no_more_than_its_step(image: Image.Image, quality: float) -> None:
    decoded = klt_decode(klt_encode(image, quality))
    assert decoded.size == image.size
    errors = np.subtract(decoded, image, dtype=np.float64)
    samples = -(-image.width // 8) * -(-image.height // 8) * 192
    step = 300 / 60 ** (quality / 100)
    assert np.sqrt(np.sum(errors**2) / samples) < 2 / 3 * step * 1.01 + 0.5


@pytest.mark.parametrize("quality", [0, 50, 100])
def test_klt_of_one_colour_is_its_mean(quality: float) -> None:
    image = Image.new("RGB", (50, 30), (200, 13, 77))
    data = klt_encode(image, quality)
    assert klt_decode(data).tobytes() == image.tobytes()
    assert len(data) < 60


def test_klt_grows_and_nears_the_picture_with_quality(photo: Image.Image) -> None:
    image = photo.crop((96, 0, 352, 256))
    files = [klt_encode(image, quality) for quality in (0, 25, 50, 75, 100)]
    psnrs_db = [psnr_db(np.asarray(image), np.asarray(klt_decode(data))) for data in files]
    bpps = [8 * len(data) / (image.width * image.height) for data in files]
    assert bpps == sorted(bpps)
    assert psnrs_db == sorted(psnrs_db)
    assert bpps[0] < 0.2
    assert 2 < bpps[-1] < 6
    assert psnrs_db[-1] > 43


def test_klt_is_the_same_each_time(small_photo: Image.Image) -> None:
    data = klt_encode(small_photo, 60)
    assert klt_encode(small_photo, 60) == data
    assert klt_decode(data).tobytes() == klt_decode(data).tobytes()


def test_huffman_spends_one_or_two_bits_on_each_of_two_values(rng: np.random.Generator) -> None:
    """The end of a block takes a code, too, so that the lengths are 1, 2 and 2."""
    samples = 128 * 100 * 3
    image = Image.fromarray(rng.choice(np.array([3, 250], np.uint8), (128, 100, 3)))
    assert len(huffman_encode(image, 100)) == pytest.approx(1.5 * samples / 8, rel=0.02)


def test_deflate_finds_what_repeats(rng: np.random.Generator) -> None:
    row = rng.integers(0, 256, (1, 128, 3), np.uint8)
    image = Image.fromarray(np.tile(row, (100, 1, 1)))
    assert len(deflate_encode(image, 100)) < 4 * row.size
    assert len(huffman_encode(image, 100)) > 80 * row.size


@pytest.mark.parametrize(("encode", "decode"), CODECS)
def test_files_begin_with_width_and_height(encode, decode) -> None:
    image = Image.new("L", (7, 5), 9)
    data = encode(image, 80)
    assert struct.unpack_from("<II", data) == (7, 5)
    assert decode(data).tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize(("encode", "decode"), CODECS)
def test_damage_shows(encode, decode, small_photo: Image.Image, rng: np.random.Generator) -> None:
    data = encode(small_photo, 30)
    for place in [*range(HEAD_BYTES), *rng.integers(HEAD_BYTES, len(data), 50)]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(ValueError, match="checksum does not hold"):
            decode(bytes(damaged))
    for size in (0, 1, HEAD_BYTES - 1, HEAD_BYTES, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match="cut"):
            decode(data[:size])
