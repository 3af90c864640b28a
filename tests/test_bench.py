"""The measuring code: BD-rate against published tables, PSNR, searches for a size, and the small programs."""

import json
import math
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import calotype
from calotype.bench import rd, speed
from calotype.bench.bd_rate import Curve, bd_psnr, bd_rate, read_reference
from calotype.bench.codecs import PEERS, at_size, decode, quality_at_size
from calotype.bench.metrics import psnr_db
from calotype.bench.timing import medians_ms, timed

CURVE = Curve("anchor", (0.1, 0.2, 0.45, 0.8, 1.7), (26.0, 28.5, 31.5, 34.0, 38.0))
SHARED = Path(os.environ.get("CALOTYPE_SHARED", Path(__file__).parents[2] / "shared"))
KODAK_CURVES = SHARED / "reference" / "kodak"


def picture(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """Waves and some noise: smooth enough to code, too busy to be a drawing."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], axis=2)
    noise = np.random.default_rng(seed).normal(0, 4, waves.shape)
    return Image.fromarray(np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.3])
def test_bd_rate_of_a_scaled_curve_is_its_factor(factor: float) -> None:
    test = Curve("test", tuple(factor * bpp for bpp in CURVE.bpp), CURVE.psnr_db)
    assert bd_rate(CURVE, test) == pytest.approx(100 * (factor - 1), abs=1e-9)


def test_bd_psnr_of_a_lifted_curve_is_its_lift() -> None:
    test = Curve("test", CURVE.bpp, tuple(psnr + 0.7 for psnr in CURVE.psnr_db))
    assert bd_psnr(CURVE, test) == pytest.approx(0.7)


def test_bd_rate_looks_only_where_both_curves_are() -> None:
    test = Curve("test", (0.9 * 0.2, 0.9 * 0.45, 0.9 * 0.8), (28.5, 31.5, 34.0))
    assert bd_rate(CURVE, test) == pytest.approx(-10, abs=1.5)


def test_the_order_of_the_points_does_not_matter() -> None:
    test = Curve("test", CURVE.bpp[::-1], CURVE.psnr_db[::-1])
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


@pytest.mark.skipif(not KODAK_CURVES.is_dir(), reason=f"no published curves in {KODAK_CURVES} (set CALOTYPE_SHARED)")
@pytest.mark.parametrize(
    ("name", "against_webp"), [("BPG-444-x265", -30.6), ("AV1-libaom-444", -35.6), ("VTM-18.0", -44.3)]
)
def test_bd_rate_equals_the_published_table(name: str, against_webp: float) -> None:
    webp, test = (read_reference(KODAK_CURVES / f"{n}.json") for n in ("WebP", name))
    assert test.name == name
    assert bd_rate(webp, test) == pytest.approx(against_webp, abs=0.3)


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
def test_at_size_finds_the_best_file_within_the_bytes(codec) -> None:
    image, size_bytes = picture(), 2200
    quality = quality_at_size(codec, image, size_bytes)
    data = at_size(codec, image, size_bytes)
    assert 0 < quality < 100
    assert len(data) <= size_bytes < len(codec.encode(image, quality + 2))
    assert codec.decode(data).size == image.size


@pytest.mark.parametrize("codec", PEERS, ids=lambda codec: codec.name)
def test_at_size_ends_at_the_smallest_and_the_best_file(codec) -> None:
    image = picture(40, 30)
    assert at_size(codec, image, 1) == codec.encode(image, 0)
    assert quality_at_size(codec, image, 10**6) == 100


def test_timing_returns_the_first_result_and_medians() -> None:
    results = iter([1, 2, 3, 4])
    result, ms = timed(lambda: next(results))
    assert (result, next(results, None)) == (1, None)
    assert ms >= 0
    calls: list[str] = []
    assert len(medians_ms([lambda: calls.append("a"), lambda: calls.append("b")], runs=2)) == 2
    assert "".join(calls) == "ababab"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in (1, 2):
        picture(seed=seed).save(tmp_path / f"{seed}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_rd_writes_every_point_and_the_means(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "results.json"
    rd.main([str(folder), "--qualities", "20,70", "--out", str(out)])
    results = json.loads(out.read_text())
    points = results["points"]
    assert [(p["picture"], p["quality"]) for p in points] == [
        (name, quality) for name in ("1.png", "2.png") for quality in (20, 70)
    ]
    image = Image.open(folder / "1.png")
    data = calotype.encode(image, quality=20)
    assert points[0]["file_bytes"] == len(data)
    assert points[0]["bpp"] == 8 * len(data) / (96 * 64)
    assert points[0]["model_id"] == calotype.info(data).model_id
    assert points[0]["psnr_db"] == psnr_db(np.asarray(image), calotype.decode_array(data))
    assert results["mean"][1]["psnr_db"] == pytest.approx((points[1]["psnr_db"] + points[3]["psnr_db"]) / 2)
    assert "mean of 2 pictures" in capsys.readouterr().out


def test_rd_holds_the_curve_against_published_ones(tmp_path: Path) -> None:
    points = [{"bpp": bpp, "psnr": psnr} for bpp, psnr in zip(CURVE.bpp, CURVE.psnr_db, strict=True)]
    (tmp_path / "WebP.json").write_text(json.dumps({"name": "WebP", "points": points}))
    far = [{"bpp": 5, "psnr": 60}, {"bpp": 6, "psnr": 62}]
    (tmp_path / "VTM-18.0.json").write_text(json.dumps({"name": "VTM-18.0", "points": far}))
    rates = rd.bd_rates(CURVE, tmp_path)
    assert rates["WebP"] == pytest.approx(0)
    assert "no PSNR in common" in str(rates["VTM-18.0"])
    assert set(rates) == {"WebP", "VTM-18.0"}


def test_rd_refuses_a_folder_without_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (tmp_path, tmp_path / "absent"):
        with pytest.raises(SystemExit, match="2"):
            rd.main([str(name)])
    assert "no pictures" in capsys.readouterr().err


def test_speed_prints_times_and_ratios(folder: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(speed, "RUNS", 1)
    monkeypatch.setattr(speed, "COLD_RUNS", 1)
    speed.main([str(folder / "1.png")])
    printed = capsys.readouterr().out
    for text in ("96x64", "calotype", "AVIF", "WebP", "torch not loaded", "calotype decode, cold:"):
        assert text in printed


def test_decode_makes_rgb_of_any_picture() -> None:
    file = BytesIO()
    Image.new("L", (3, 2), 9).save(file, "PNG")
    assert decode(file.getvalue()).mode == "RGB"
