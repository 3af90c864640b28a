"""Files that hold many images of one size: IDX (MNIST's format, gzip or not) and `.npy`."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from calotype.errors import InputError

Images = NDArray[np.uint8]
MAX_BYTES = 1 << 32
_IDX_SUFFIXES = (".idx", "-ubyte")
_UNSIGNED_BYTE = 8


def is_array(path: Path) -> bool:
    """Whether a file's name is that of many images: `.npy`, `.idx` or `...-ubyte`, the latter two with `.gz` or without."""
    return path.name.endswith(".npy") or path.name.removesuffix(".gz").endswith(_IDX_SUFFIXES)


def _read_idx(stream: BinaryIO) -> Images:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != _UNSIGNED_BYTE or start[3] not in (3, 4):
        raise InputError("not an IDX file of images: it must hold unsigned bytes in 3 or 4 dimensions")
    shape = struct.unpack(f">{start[3]}I", stream.read(4 * start[3]))
    if prod(shape) > MAX_BYTES:
        raise InputError(f"declares {prod(shape)} samples, over {MAX_BYTES}")
    samples = stream.read(prod(shape))
    if len(samples) != prod(shape) or stream.read(1):
        raise InputError(f"declares {prod(shape)} samples and holds another number")
    return np.frombuffer(samples, np.uint8).reshape(shape)


def read(path: Path) -> Images:
    """The images of a file, (n, h, w, c).

    Raises:
        InputError: If it holds anything else than unsigned bytes (n, h, w) or (n, h, w, c).
    """
    try:
        if path.name.endswith(".npy"):
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
                images = _read_idx(stream)  # pyright: ignore[reportArgumentType]
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise InputError(f"{path}: {images.dtype} {images.shape}, not unsigned bytes (n, h, w) or (n, h, w, c)")
    return images if images.ndim == 4 else images[..., None]


def serialise(path: Path, images: Images) -> bytes:
    """Images (n, h, w, c) as the bytes of a file of this name, for `read`; one channel needs no dimension of its own."""
    plain = images[..., 0] if images.shape[3] == 1 else images
    if path.name.endswith(".npy"):
        out = io.BytesIO()
        np.save(out, plain)
        return out.getvalue()
    start = struct.pack(f">BBBB{plain.ndim}I", 0, 0, _UNSIGNED_BYTE, plain.ndim, *plain.shape)
    idx = start + plain.tobytes()
    return gzip.compress(idx, mtime=0) if path.name.endswith(".gz") else idx
