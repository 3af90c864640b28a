"""The metrics beyond PSNR, against the packages that define them and values worked out by hand."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from pytorch_msssim import ms_ssim

from calotype.bench.metrics import TooSmall, ms_ssim_db, ssim, ssimulacra2

METRICS = {ssim: 11, ms_ssim_db: 161, ssimulacra2: 8}
"""Each with the shortest side that it takes."""


@pytest.fixture(scope="module")
def original(photo: Image.Image) -> np.ndarray:
    return np.asarray(photo)[:256, 96:352]


def flat(value: int, height: int = 192, width: int = 176) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def blurred(pixels: np.ndarray, radius_px: float) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius_px)))


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32))


def assert_equals_pytorch_msssim(a: np.ndarray, b: np.ndarray) -> None:
    assert 1 - 10 ** (-ms_ssim_db(a, b) / 10) == pytest.approx(
        ms_ssim(tensor(a), tensor(b), data_range=255).item(), abs=1e-5
    )


@pytest.mark.parametrize(("height", "width"), [(192, 256), (161, 200), (255, 241), (236, 163)])
def test_ms_ssim_equals_pytorch_msssim(original: np.ndarray, height: int, width: int) -> None:
    a = original[:height, :width]
    for b in (jpeg(a, 10), jpeg(a, 95), blurred(a, 3), 255 - a):
        assert_equals_pytorch_msssim(a, b)


def test_ms_ssim_of_noise_equals_pytorch_msssim(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 256, (2, 177, 221, 3), np.uint8)
    assert_equals_pytorch_msssim(a, b)


def test_flat_pictures_differ_in_luminance_alone() -> None:
    luminance = (2 * 100 * 110 + 2.55**2) / (100**2 + 110**2 + 2.55**2)
    assert ssim(flat(100), flat(110)) == pytest.approx(luminance)
    assert ms_ssim_db(flat(100), flat(110)) == pytest.approx(-10 * math.log10(1 - luminance**0.1333), abs=1e-3)


def test_equal_pictures_have_the_best_value(original: np.ndarray) -> None:
    assert ssim(original, original) == 1
    assert ms_ssim_db(original, original) == math.inf
    assert ssimulacra2(original, original) == 100


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_a_worse_picture_has_a_lower_value(metric, original: np.ndarray) -> None:
    by_quality = [metric(original, jpeg(original, quality)) for quality in (5, 20, 50, 80, 98)]
    by_blur = [metric(original, blurred(original, radius_px)) for radius_px in (4, 2, 1, 0.5)]
    for values in (by_quality, by_blur):
        assert values == sorted(set(values))


def test_ssimulacra2_is_on_the_scale_of_its_authors(original: np.ndarray) -> None:
    """libjxl calls 30 low quality, as JPEG of quality 20, and 90 visually lossless."""
    assert 10 < ssimulacra2(original, jpeg(original, 20)) < 50
    assert 85 < ssimulacra2(original, jpeg(original, 98)) < 100
    assert ssimulacra2(original, 255 - original) < 0


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_orientation_hardly_matters(metric, original: np.ndarray) -> None:
    a = original[:180]
    b = jpeg(a, 60)
    turned = metric(a.swapaxes(0, 1), b.swapaxes(0, 1))
    assert turned == pytest.approx(metric(a, b), rel=0.02)


@pytest.mark.parametrize("metric", [ssim, ms_ssim_db], ids=lambda metric: metric.__name__)
def test_either_picture_may_be_the_original(metric, original: np.ndarray) -> None:
    b = jpeg(original, 30)
    assert metric(b, original) == pytest.approx(metric(original, b))


@pytest.mark.parametrize(("metric", "least_px"), METRICS.items(), ids=lambda value: getattr(value, "__name__", None))
def test_small_pictures_are_refused(metric, least_px: int) -> None:
    assert math.isfinite(metric(flat(9, least_px, least_px), flat(90, least_px, least_px)))
    for height, width in ((least_px - 1, 200), (200, least_px - 1), (1, 1)):
        with pytest.raises(TooSmall, match=f"sides of {least_px} px or more: the picture is {width}x{height}"):
            metric(flat(9, height, width), flat(90, height, width))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_only_rgb_pictures_of_one_size_are_compared(metric) -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        metric(flat(1), flat(1, 200, 200))
    for wrong in (flat(1)[..., 0], flat(1)[..., :2], flat(1).astype(np.uint16)):
        with pytest.raises(ValueError, match=r"needs uint8 \(h, w, 3\)"):
            metric(wrong, wrong)
