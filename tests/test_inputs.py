"""Pictures as they are found: odd kinds, odd depths, and what Pillow does to them."""

from __future__ import annotations

import io
import runpy
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import calotype
import calotype.pillow
from calotype.cli import pictures
from calotype.cli.pictures import is_picture
from conftest import ROOT, raw_png

EVERY = 3
"""Which of the odd files the test takes; tools/inputs.py takes all."""


def test_odd_files_are_coded_right_or_refused(shared: Path) -> None:
    root = shared / "data" / "odd"
    if not root.is_dir():
        pytest.skip(f"no odd files at {root}")
    if not (ROOT / "tools").is_dir():
        pytest.skip("tools/ is not part of the source archive")
    inputs = runpy.run_path(str(ROOT / "tools" / "inputs.py"))
    paths = sorted(path for path in root.rglob("*") if path.is_file())[::EVERY]
    found = [inputs["fate"](root, path) for path in paths]
    assert [f"{one.path}: {one.wrong}" for one in found if one.wrong] == []
    assert len([one for one in found if not one.refused]) > len(found) * 3 // 4


def _read(data: bytes) -> tuple[Image.Image, bool]:
    return pictures.read(io.BytesIO(data))


GREY, COLOUR = 0, 2


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (raw_png(2, 1, 4, GREY, b"\0\x5f", struct.pack(">H", 5)), [[85, 0], [255, 255]]),
        (raw_png(4, 1, 2, GREY, b"\0\x1b", struct.pack(">H", 2)), [[0, 255], [85, 255], [170, 0], [255, 255]]),
        (raw_png(2, 1, 16, GREY, b"\0\1\2\3\4", struct.pack(">H", 0x304)), [[0x102, 65535], [0x304, 0]]),
        (
            raw_png(2, 1, 16, COLOUR, b"\0\1\0\2\0\3\0\4\0\5\0\6\0", struct.pack(">3H", 0x100, 0x200, 0x300)),
            [[1, 2, 3, 0], [4, 5, 6, 255]],
        ),
    ],
)
def test_the_transparent_colour_of_a_png(data: bytes, expected: list[list[int]]) -> None:
    for image in (_read(data)[0], Image.open(io.BytesIO(data))):
        decoded = calotype.decode_array(calotype.encode(image, lossless=True))
        assert decoded.tolist() == [expected]


def _saved(form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(buffer, form, **options)
    return buffer.getvalue()


def _deep_jpeg_2000() -> bytes:
    data = bytearray(_saved("JPEG2000"))
    depths_at = data.index(b"\xff\x4f\xff\x51") + 42
    data[depths_at : depths_at + 9 : 3] = bytes([11] * 3)
    return bytes(data)


def _deep_avif() -> bytes:
    data = bytearray(_saved("AVIF"))
    data[data.index(b"av1C") + 6] |= 0x40
    return bytes(data)


BMP_565 = (
    (b"BM" + struct.pack("<IHHI", 70, 0, 0, 66) + struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0))
    + struct.pack("<3I", 0xF800, 0x7E0, 0x1F)
    + b"\x1f\xf8\0\0"
)


@pytest.mark.parametrize(
    ("data", "is_cut"),
    [
        (b"P6 1 1 65535\n" + bytes(6), True),
        (b"P6 1 1 255\n" + bytes(3), False),
        (b"P5 1 1 65535\n" + bytes(2), False),
        (BMP_565, False),
        (_saved("JPEG2000"), False),
        (_deep_jpeg_2000(), True),
        (_saved("AVIF"), False),
    ],
)
def test_samples_that_pillow_cuts_are_noticed(data: bytes, is_cut: bool) -> None:
    assert _read(data)[1] == is_cut


def test_deep_avif_is_noticed() -> None:
    from calotype.cli.depth import is_deep

    data = _deep_avif()  # whose samples do not fit, so it does not load
    assert is_deep(Image.open(io.BytesIO(_saved("AVIF"))), io.BytesIO(data))


def test_small_drawings_are_not_coded_badly() -> None:
    ramps = np.zeros((64, 127, 3), np.uint8)
    ramps[..., 0] = 2 * np.arange(127)
    ramps[..., 1] = 4 * np.arange(64)[:, None]
    ramps[20:44, 30:90:4] = 255
    data = calotype.encode(ramps, quality=60)
    assert calotype.info(data).lossless


def test_drawings_of_columns_are_seen_as_drawings() -> None:
    rng = np.random.default_rng(0)
    columns = np.repeat(rng.integers(0, 256, (1, 300, 3), dtype=np.uint8), 300, axis=0)
    assert calotype.info(calotype.encode(columns, quality=60)).lossless


def test_calo_files_are_not_encoded_again() -> None:
    calotype.pillow.register()
    assert not is_picture(Path("a.calo"))
