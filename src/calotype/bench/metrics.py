"""How far a decoded picture is from the original.

Beyond PSNR these need what `calotype[bench]` installs, and import it only when they are called.
"""

from __future__ import annotations

import math
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8 | np.uint16]
Floats = NDArray[np.floating[Any]]

WINDOW_PX = 11
WINDOW_SIGMA_PX = 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_AT_ONCE = 1000
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


class TooSmall(ValueError):  # noqa: N818 (named by what the picture is)
    """The picture is too small for the metric."""


def psnr_db(a: Pixels, b: Pixels) -> float:
    """PSNR over all samples of two pictures of one shape and dtype; the peak is the dtype's largest value.

    Equal pictures have infinite PSNR.

    Raises:
        ValueError: Shapes or dtypes differ, or the dtype is neither uint8 nor uint16.
    """
    _check_pair(a, b)
    if a.dtype.kind != "u" or a.dtype.itemsize > 2:
        raise ValueError(f"samples are {a.dtype}, not uint8 or uint16")
    mse = float(np.mean(np.square(np.subtract(a, b, dtype=np.float64))))
    return 10 * math.log10(float(np.iinfo(a.dtype).max) ** 2 / mse) if mse else math.inf


def ssim(a: Pixels, b: Pixels) -> float:
    """SSIM of two RGB pictures (h, w, 3), uint8: the mean over the channels, 1 for equal pictures.

    It is scikit-image's, with the settings of Wang, Bovik, Sheikh and Simoncelli (2004): a Gaussian window of 11 px.

    Raises:
        TooSmall: A side is shorter than the window.
        ValueError: The pictures are not RGB of one size.
    """
    from skimage.metrics import structural_similarity

    _check_rgb(a, b, "SSIM", least_px=WINDOW_PX)
    wang = {"gaussian_weights": True, "sigma": WINDOW_SIGMA_PX, "use_sample_covariance": False, "data_range": 255}
    return float(structural_similarity(a, b, channel_axis=-1, **wang))  # pyright: ignore[reportArgumentType]


def ssim_of_images(a: Pixels, b: Pixels) -> float:
    """Mean SSIM of many small pictures (n, h, w, c), uint8, each as by `ssim`.

    Raises:
        TooSmall: A side is shorter than the window.
    """
    _check_pair(a, b)
    if min(a.shape[1:3]) < WINDOW_PX:
        raise TooSmall(f"SSIM needs sides of {WINDOW_PX} px or more: the pictures are {a.shape[2]}x{a.shape[1]}")
    total = 0.0
    for start in range(0, len(a), _AT_ONCE):
        x, y = (np.moveaxis(part[start : start + _AT_ONCE], 3, 1).astype(np.float32) for part in (a, b))
        luminance, contrast = _similarities(np.stack([x + y, x - y]))
        total += float(np.mean(luminance * contrast, axis=(1, 2, 3), dtype=np.float64).sum())
    return total / len(a)


def ms_ssim_db(a: Pixels, b: Pixels) -> float:
    """MS-SSIM of two RGB pictures (h, w, 3), uint8, as -10 log10(1 - MS-SSIM); infinite for equal pictures.

    MS-SSIM is that of Wang, Simoncelli and Bovik (2003) as papers on learned compression compute it, with the package
    pytorch-msssim: for each channel of RGB, from samples 0-255, then the mean.

    Raises:
        TooSmall: A side is not longer than 160 px, so that the window does not fit into the smallest scale.
        ValueError: The pictures are not RGB of one size.
    """
    _check_rgb(a, b, "MS-SSIM", least_px=(WINDOW_PX - 1) * 2 ** (len(MS_SSIM_WEIGHTS) - 1) + 1)
    value = _ms_ssim(a, b)
    return -10 * math.log10(1 - value) if value < 1 else math.inf


def ssimulacra2(a: Pixels, b: Pixels) -> float:
    """SSIMULACRA2 of an original `a` and a decoded `b`, RGB (h, w, 3), uint8: 100 for equal pictures, 0 for bad ones.

    It is that of the package ssimulacra2, which blurs past left and right edges into black, as libjxl does past all
    four, but reflects the picture at the others. So its scores are about 3 lower than with libjxl's edges at a score
    of 30, and 0.3 at 85 (Kodak's 05 and 23 as JPEG), and a picture turned on its side scores a little differently.

    Raises:
        TooSmall: A side is shorter than 8 px, where it would call any two pictures equal.
        ValueError: The pictures are not RGB of one size.
    """
    from ssimulacra2 import compute_ssimulacra2

    _check_rgb(a, b, "SSIMULACRA2", least_px=8)
    return float(compute_ssimulacra2(_ppm(a), _ppm(b)))


def _check_pair(a: Pixels, b: Pixels) -> None:
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(f"cannot compare {a.dtype} {a.shape} with {b.dtype} {b.shape}")


def _check_rgb(a: Pixels, b: Pixels, metric: str, least_px: int) -> None:
    _check_pair(a, b)
    if a.dtype != np.uint8 or a.ndim != 3 or a.shape[2] != 3:
        raise ValueError(f"{metric} needs uint8 (h, w, 3), not {a.dtype} {a.shape}")
    if min(a.shape[:2]) < least_px:
        raise TooSmall(f"{metric} needs sides of {least_px} px or more: the picture is {a.shape[1]}x{a.shape[0]}")


def _ppm(pixels: Pixels) -> BytesIO:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PPM")
    file.seek(0)
    return file


def _ms_ssim(a: Pixels, b: Pixels) -> float:
    """With the pictures as sum and difference, which need fewer filters, and in which equal pictures give exactly 1."""
    x, y = (np.moveaxis(pixels, 2, 0).astype(np.float32) for pixels in (a, b))
    pair = np.stack([x + y, x - y])
    value = np.ones(3)
    for weight in MS_SSIM_WEIGHTS[:-1]:
        _, contrast = _similarities(pair)
        value *= _channel_means(contrast) ** weight
        pair = _halved(pair)
    luminance, contrast = _similarities(pair)
    return float(np.mean(value * _channel_means(luminance * contrast) ** MS_SSIM_WEIGHTS[-1]))


def _similarities(pair: Floats) -> tuple[Floats, Floats]:
    """SSIM's two factors at each place: of the means (luminance), and of the variances (contrast and structure)."""
    squared_mean = _blurred(pair) ** 2
    variance = _blurred(pair**2) - squared_mean
    return _similarity(squared_mean, C1), _similarity(variance, C2)


def _similarity(pair: Floats, c: float) -> Floats:
    of_sum, of_difference = pair
    return (of_sum - of_difference + 2 * c) / (of_sum + of_difference + 2 * c)


def _channel_means(similarity: Floats) -> NDArray[np.float64]:
    return np.maximum(similarity.mean(axis=(-2, -1), dtype=np.float64), 0)


def _blurred(planes: Floats) -> Floats:
    """Planes (..., h, w) under the Gaussian window, where it fits wholly."""
    from scipy.ndimage import correlate1d

    radius = WINDOW_PX // 2
    window = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * WINDOW_SIGMA_PX**2))
    window /= window.sum()
    planes = correlate1d(planes, window, axis=-2)[..., radius:-radius, :]
    return correlate1d(planes, window, axis=-1)[..., radius:-radius]


def _halved(planes: Floats) -> Floats:
    """Means of 2x2; before an odd side stands a line of zeros, as pytorch-msssim has it."""
    h, w = planes.shape[-2:]
    padded = np.pad(planes, [(0, 0)] * (planes.ndim - 2) + [(h % 2, 0), (w % 2, 0)])
    return (padded[..., ::2, ::2] + padded[..., ::2, 1::2] + padded[..., 1::2, ::2] + padded[..., 1::2, 1::2]) / 4
