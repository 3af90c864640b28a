"""How far a decoded picture is from the original."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8 | np.uint16]


def psnr_db(a: Pixels, b: Pixels) -> float:
    """PSNR over all samples of two pictures of one shape and dtype; the peak is the dtype's largest value.

    Equal pictures have infinite PSNR.

    Raises:
        ValueError: Shapes or dtypes differ, or the dtype is neither uint8 nor uint16.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(f"cannot compare {a.dtype} {a.shape} with {b.dtype} {b.shape}")
    if a.dtype.kind != "u" or a.dtype.itemsize > 2:
        raise ValueError(f"samples are {a.dtype}, not uint8 or uint16")
    mse = float(np.mean(np.square(np.subtract(a, b, dtype=np.float64))))
    return 10 * math.log10(float(np.iinfo(a.dtype).max) ** 2 / mse) if mse else math.inf
