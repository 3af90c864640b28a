from __future__ import annotations

import os
import signal
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import calotype
from calotype import library
from calotype.bundle import Bundle

if TYPE_CHECKING:
    from calotype.learn.data import Crops

ROOT = Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Let programs that tests start be interrupted, which a shell keeps from what it runs in the background.

    Where tests run side by side, keep PyTorch to one thread each: two that wait for a core do so by spinning.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def photo_model() -> Bundle:
    return library.find("photo")


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A photograph of 512x512."""
    from skimage import data

    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="session")
def small_photo(photo: Image.Image) -> Image.Image:
    """A corner of it that no multiple of 16 fits."""
    return photo.crop((150, 20, 350, 171))


@pytest.fixture(scope="session")
def small_file(small_photo: Image.Image) -> bytes:
    return calotype.encode(small_photo, quality=50)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test images beside the checkout, where there is one."""
    folder = Path(os.environ.get("CALOTYPE_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no test images at {folder}; set CALOTYPE_SHARED")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def psnr_db(a: Image.Image | np.ndarray, b: Image.Image | np.ndarray) -> float:
    x, y = np.asarray(a), np.asarray(b)
    peak = 65535 if x.dtype == np.uint16 else 255
    error = np.mean((x.astype(float) - y.astype(float)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def raw_png(width: int, height: int, bits: int, colour_type: int, rows: bytes, clear: bytes = b"") -> bytes:
    """A PNG that Pillow would not write; each row begins with its filter, `clear` is what tRNS holds."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *[(b"tRNS", clear)] * bool(clear), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.fixture(scope="session")
def folder(photo: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures to train on."""
    folder = tmp_path_factory.mktemp("pictures")
    for angle in (0, 90):
        photo.crop((128, 0, 384, 256)).rotate(angle).save(folder / f"{angle}.png")
    return folder


@pytest.fixture(scope="session")
def crops(folder: Path) -> Crops:
    from calotype.learn.config import Recipe
    from calotype.learn.data import Crops, Pictures, find_pictures

    return Crops(Pictures(find_pictures([folder]), 128), None, Recipe(crop_px=128))


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Principal components of the digits, as a textbook model."""
    from calotype import datasets
    from calotype.learn.textbook import fit

    data, folder = datasets.load("digits"), tmp_path_factory.mktemp("digits")
    fit.fit(fit.plan_of("pca", None, data, "digits", {}), data, folder / "run", None, lambda _: None)
    fit.to_bundle(folder / "run", data, folder / "digits.calomodel")
    return folder / "digits.calomodel"
