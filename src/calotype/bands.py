"""Pictures of 2 to 16 bands, as satellites and microscopes take them: `.npy` and TIFF of a page for each band."""

from __future__ import annotations

import io
import math
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calotype.errors import InputError
from calotype.header import MAX_CHANNELS

Samples = NDArray[np.uint8 | np.uint16]

SUFFIXES = (".npy", ".tif", ".tiff")
_NPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*")
_DEEP_MODES = ("I;16", "I;16B", "I;16L")
UNREADABLE = (OSError, EOFError, ValueError, TypeError, OverflowError, SyntaxError, TokenError)
"""What numpy raises for files that are cut, and for headers that make no sense."""


def read(stream: BinaryIO, *, pages: bool = True) -> Samples | None:
    """The samples (h, w, c) of a `.npy` file or, with `pages`, of a TIFF of 2 to 16 grey ones of one size; else None.

    The stream then stands where it was.

    Raises:
        InputError: If it is one, but damaged, or not of 1 to 16 bands of uint8 or uint16.
        Image.DecompressionBombError: If a page has more pixels than Pillow opens.
    """
    start = stream.tell()
    magic = stream.read(len(_NPY))
    stream.seek(start)
    try:
        if magic == _NPY:
            return _checked(_read_npy(stream))
        samples = _read_pages(stream) if pages and magic.startswith(_TIFF) else None
    except UNREADABLE as error:
        raise InputError(f"the bands cannot be read: {error}") from error
    stream.seek(start)
    return samples


def size_px(path: Path) -> tuple[int, int]:
    """Height and width of a `.npy` file; reads no samples.

    Raises:
        InputError: If it is none, or holds no picture.
    """
    try:
        with path.open("rb") as stream:
            height, width, *_ = _read_header(stream)[0]
    except UNREADABLE as error:
        raise InputError(f"the bands cannot be read: {error}") from error
    return height, width


def _read_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return header(stream)


def _read_npy(stream: BinaryIO) -> NDArray[Any]:
    shape, by_columns, dtype = _read_header(stream)
    data = stream.read()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes of data, where {dtype} {shape} is declared")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")


def _read_pages(stream: BinaryIO) -> Samples | None:
    with Image.open(stream, formats=["TIFF"]) as image:
        count, size = getattr(image, "n_frames", 1), image.size
        if not 2 <= count <= MAX_CHANNELS:
            return None
        pages: list[NDArray[Any]] = []
        for number in range(count):
            image.seek(number)
            if image.size != size or image.mode not in ("L", *_DEEP_MODES):
                return None
            pages.append(np.asarray(image))
    return _checked(np.stack(pages, axis=2))


def _checked(array: NDArray[Any]) -> Samples:
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    shaped = array[:, :, None] if array.ndim == 2 else array
    if shaped.ndim != 3 or str(shaped.dtype) not in ("uint8", "uint16") or not 1 <= shaped.shape[2] <= MAX_CHANNELS:
        raise InputError(f"{array.dtype} {array.shape}; give uint8 or uint16 of (h, w) or (h, w, 1 to {MAX_CHANNELS})")
    return shaped


def serialise(samples: Samples, suffix: str) -> bytes:
    """Samples (h, w) or (h, w, c) as a `.npy` file, or as a TIFF of a page for each band.

    Raises:
        InputError: If the suffix is that of another format.
    """
    out = io.BytesIO()
    if suffix == ".npy":
        np.save(out, samples)
    elif suffix in SUFFIXES:
        first, *others = (Image.fromarray(band) for band in np.atleast_3d(samples).transpose(2, 0, 1))
        first.save(out, "TIFF", compression="tiff_adobe_deflate", save_all=True, append_images=others)
    else:
        raise InputError(f"{samples.shape[2]} bands do not fit into {suffix}: name an output that ends in .npy or .tif")
    return out.getvalue()


def is_bands(path: Path) -> bool:
    """Whether a file's name is that of an array."""
    return path.suffix.lower() == ".npy"
