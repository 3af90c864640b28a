"""The measuring code: BD-rate against published tables, PSNR, searches for a size, and the small programs."""

import math
import os
import re
from io import BytesIO
from pathlib import Path

import bjontegaard
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.interpolate import PchipInterpolator

from calotype.bench import speed
from calotype.bench.bd_rate import Curve, bd_psnr, bd_rate
from calotype.bench.codecs import JPEG, PEERS, WEBP, Codec, decode, quality_at_size
from calotype.bench.metrics import psnr_db
from calotype.bench.results import read_published
from calotype.bench.timing import medians_ms, timed

CURVE = Curve("anchor", (0.1, 0.2, 0.45, 0.8, 1.7), (26.0, 28.5, 31.5, 34.0, 38.0))
SHARED = Path(os.environ.get("CALOTYPE_SHARED", Path(__file__).parents[2] / "shared"))
KODAK_CURVES, KODAK = SHARED / "reference" / "kodak", SHARED / "data" / "kodak"
needs_curves = pytest.mark.skipif(
    not KODAK_CURVES.is_dir(), reason=f"no published curves in {KODAK_CURVES} (set CALOTYPE_SHARED)"
)


def picture(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """Waves and some noise: smooth enough to code, too busy to be a drawing."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], axis=2)
    noise = np.random.default_rng(seed).normal(0, 4, waves.shape)
    return Image.fromarray(np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.3])
def test_bd_rate_of_a_scaled_curve_is_its_factor(factor: float) -> None:
    test = Curve("test", tuple(factor * bpp for bpp in CURVE.bpp), CURVE.value)
    assert bd_rate(CURVE, test) == pytest.approx(100 * (factor - 1), abs=1e-9)


def test_bd_psnr_of_a_lifted_curve_is_its_lift() -> None:
    test = Curve("test", CURVE.bpp, tuple(psnr + 0.7 for psnr in CURVE.value))
    assert bd_psnr(CURVE, test) == pytest.approx(0.7)


def test_bd_rate_looks_only_where_both_curves_are() -> None:
    test = Curve("test", (0.9 * 0.2, 0.9 * 0.45, 0.9 * 0.8), (28.5, 31.5, 34.0))
    assert bd_rate(CURVE, test) == pytest.approx(-10, abs=1.5)


def test_the_order_of_the_points_does_not_matter() -> None:
    test = Curve("test", CURVE.bpp[::-1], CURVE.value[::-1])
    assert bd_rate(CURVE, test) == pytest.approx(0)
    assert bd_psnr(CURVE, test) == pytest.approx(0)


def test_curves_without_overlap_are_refused() -> None:
    far = Curve("far", (5.0, 6.0), (45.0, 47.0))
    with pytest.raises(ValueError, match="anchor and far: the curves have no PSNR in common"):
        bd_rate(CURVE, far)
    with pytest.raises(ValueError, match="no rate in common"):
        bd_psnr(CURVE, far)


def test_a_curve_with_one_psnr_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="same PSNR at two points"):
        bd_rate(CURVE, Curve("flat", (0.1, 0.2, 0.3), (30.0, 31.0, 31.0)))


@pytest.mark.parametrize(
    ("bpp", "psnr"),
    [((0.1,), (30.0,)), ((0.1, 0.2), (30.0,)), ((0.0, 0.2), (30.0, 31.0)), ((0.1, 0.2), (30.0, math.inf))],
)
def test_curves_that_cannot_be_fitted_are_refused(bpp: tuple[float, ...], psnr: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="bad"):
        Curve("bad", bpp, psnr)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.05, 0.6), st.floats(0.3, 3)), min_size=4, max_size=9), st.floats(0.5, 2))
def test_bd_rate_equals_an_independent_implementation(steps: list[tuple[float, float]], factor: float) -> None:
    bpp, psnr = (tuple(float(v) for v in np.cumsum(column)) for column in zip(*steps, strict=True))
    test = Curve("test", tuple(factor * b**1.1 for b in bpp), psnr)
    rates, qualities = (np.array(bpp), np.array(psnr)), (np.array(test.bpp), np.array(test.value))
    expected = bjontegaard.bd_rate(*rates, *qualities, method="pchip", min_overlap=0)
    assert bd_rate(Curve("anchor", bpp, psnr), test) == pytest.approx(expected, abs=1e-6, rel=1e-6)


def published_tables() -> list[tuple[str, str, str, str, float]]:
    """(data set, anchor, codec, text, BD-rate) of every row of TABLE.md's tables."""
    rows: list[tuple[str, str, str, str, float]] = []
    dataset, head = "", [""]
    for line in (SHARED / "reference" / "TABLE.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if line.startswith("## "):
            dataset = line[3:].split()[0].lower()
        elif line.startswith("| method"):
            head = cells
        elif line.startswith("|") and not line.startswith("|--"):
            for title, cell in zip(head, cells, strict=False):
                if title.startswith("vs ") and "only" not in title and re.fullmatch(r"[+-]\d+\.\d", cell):
                    rows.append((dataset, title[3:], cells[0], cell, float(cell)))
    return rows


@needs_curves
def test_every_bd_rate_of_the_published_tables_is_found_again() -> None:
    curves = {(p.name, c.name): c.curve for p in KODAK_CURVES.parent.iterdir() if p.is_dir() for c in read_published(p)}
    compared = 0
    for dataset, anchor, codec, text, expected in published_tables():
        if (dataset, anchor) in curves and (dataset, codec) in curves:
            found = bd_rate(curves[dataset, anchor], curves[dataset, codec])
            assert found == pytest.approx(expected, abs=0.3), (dataset, anchor, codec, text)
            compared += 1
    assert compared > 300


@needs_curves
@pytest.mark.skipif(not KODAK.is_dir(), reason=f"no pictures in {KODAK} (set CALOTYPE_SHARED)")
@pytest.mark.parametrize(("codec", "name"), [(JPEG, "JPEG-pillow"), (WEBP, "WebP")], ids=["JPEG", "WebP"])
def test_pillows_curves_agree_with_the_published_ones(codec: Codec, name: str) -> None:
    published = next(p.curve for p in read_published(KODAK_CURVES) if p.name == name)
    originals = [decode(path.read_bytes()) for path in sorted(KODAK.glob("*.png"))]
    order = np.argsort(published.bpp)
    at = PchipInterpolator(np.log(np.array(published.bpp)[order]), np.array(published.value)[order])
    for quality in (20, 45, 75):
        files = [codec.encode(image, quality) for image in originals]
        bpp = np.mean([8 * len(f) / (im.width * im.height) for f, im in zip(files, originals, strict=True)])
        pairs = zip(originals, map(codec.decode, files), strict=True)
        psnr = np.mean([psnr_db(np.asarray(a), np.asarray(b)) for a, b in pairs])
        assert psnr == pytest.approx(float(at(np.log(bpp))), abs=0.15)


@pytest.mark.parametrize(("dtype", "peak"), [(np.uint8, 255), (np.uint16, 65535)])
def test_psnr_takes_its_peak_from_the_dtype(dtype: type, peak: int) -> None:
    a = np.full((4, 5, 3), 7, dtype)
    assert psnr_db(a, a) == math.inf
    assert psnr_db(a, a + dtype(2)) == pytest.approx(20 * math.log10(peak / 2))
    assert psnr_db(a + dtype(2), a) == psnr_db(a, a + dtype(2))


def test_psnr_refuses_what_it_cannot_compare() -> None:
    a = np.zeros((4, 4), np.uint8)
    for b in (np.zeros((4, 5), np.uint8), np.zeros((4, 4), np.uint16)):
        with pytest.raises(ValueError, match="cannot compare"):
            psnr_db(a, b)
    with pytest.raises(ValueError, match="float64"):
        psnr_db(np.zeros(3), np.zeros(3))


@pytest.mark.parametrize("codec", PEERS, ids=lambda codec: codec.name)
def test_quality_at_size_finds_the_best_file_within_the_bytes(codec) -> None:
    image, size_bytes = picture(), 2200
    quality = quality_at_size(codec, image, size_bytes)
    data = codec.encode(image, quality)
    assert 0 < quality < 100
    assert len(data) <= size_bytes < len(codec.encode(image, quality + 2))
    assert codec.decode(data).size == image.size


@pytest.mark.parametrize("codec", PEERS, ids=lambda codec: codec.name)
def test_quality_at_size_ends_at_the_smallest_and_the_best_file(codec) -> None:
    image = picture(40, 30)
    assert quality_at_size(codec, image, 1) == 0
    assert quality_at_size(codec, image, 10**6) == 100


def test_timing_returns_the_first_result_and_medians() -> None:
    results = iter([1, 2, 3, 4])
    result, ms = timed(lambda: next(results))
    assert (result, next(results, None)) == (1, None)
    assert ms >= 0
    calls: list[str] = []
    assert len(medians_ms([lambda: calls.append("a"), lambda: calls.append("b")], runs=2)) == 2
    assert "".join(calls) == "ababab"


def test_speed_prints_times_and_ratios(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(speed, "RUNS", 1)
    monkeypatch.setattr(speed, "COLD_RUNS", 1)
    picture().save(tmp_path / "1.png")
    speed.main([str(tmp_path / "1.png")])
    printed = capsys.readouterr().out
    for text in ("96x64", "calotype", "AVIF", "WebP", "torch not loaded", "calotype decode, cold:"):
        assert text in printed


def test_decode_makes_rgb_of_any_picture() -> None:
    file = BytesIO()
    Image.new("L", (3, 2), 9).save(file, "PNG")
    assert decode(file.getvalue()).mode == "RGB"
