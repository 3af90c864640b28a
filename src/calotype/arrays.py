"""Files that hold many images of one size: IDX (MNIST's format, gzip or not) and `.npy`."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calotype import bands, datasets
from calotype.errors import InputError

Images = NDArray[np.uint8]
_IDX_SUFFIXES = (".idx", "-ubyte")
_UNSIGNED_BYTE = 8
MAX_COLOURS = 4
"""Of a picture; nobody has images of so few columns."""


def is_array(path: Path) -> bool:
    """Whether a file's name is that of many images: `.npy`, `.idx` or `...-ubyte`, perhaps with `.gz`."""
    return bands.is_bands(path) or path.name.lower().removesuffix(".gz").endswith(_IDX_SUFFIXES)


def read(path: Path) -> Images:
    """The images of a file, (n, h, w, c).

    Raises:
        InputError: If it holds anything else than unsigned bytes (n, h, w) or (n, h, w, c).
    """
    try:
        images = np.lib.format.open_memmap(path, mode="r") if bands.is_bands(path) else datasets.read_idx(path)
    except FileNotFoundError:
        raise
    except bands.UNREADABLE as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise InputError(f"{path}: {images.dtype} {images.shape}, not unsigned bytes (n, h, w) or (n, h, w, c)")
    if images.ndim == 3 and images.shape[2] <= MAX_COLOURS:
        raise InputError(
            f"{path}: {images.shape} may be one picture (h, w, c): `calotype encode` takes it; many are (n, h, w, c)"
        )
    return images if images.ndim == 4 else images[..., None]


def serialise(path: Path, images: Images) -> bytes:
    """Images (n, h, w, c) as the bytes of a file of this name, for `read`.

    Raises:
        InputError: If they have several channels, which IDX does not hold.
    """
    plain = images[..., 0] if images.shape[3] == 1 else images
    if bands.is_bands(path):
        out = io.BytesIO()
        np.save(out, plain)
        return out.getvalue()
    if plain.ndim != 3:
        raise InputError(f"{path}: IDX files hold images of one channel, not {images.shape[3]}: write .npy")
    idx = struct.pack(">BBBB3I", 0, 0, _UNSIGNED_BYTE, 3, *plain.shape) + plain.tobytes()
    return gzip.compress(idx, mtime=0) if path.name.endswith(".gz") else idx
