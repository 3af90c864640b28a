"""A whole benchmark: what it measures, what it keeps, what it writes, and that a kill costs nothing."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from calotype.bench import markdown, measure, run
from calotype.bench.codecs import CODECS, FAMILIES, JPEG
from calotype.bench.measure import Cache, Job, jobs_of, measure_all, thinned
from calotype.bench.results import Results, read_published
from calotype.bench.summary import bd_tables
from calotype.cli import app
from calotype.errors import InputError, ModelNotFound, OptionError

FAMILIES_RUN = "calotype,jpeg,png"
POINTS = 2 * (4 * 3 + 3 * 3 + 1)


def photograph(seed: int) -> Image.Image:
    """Waves and noise, 192x176: large enough for every metric."""
    y, x = np.mgrid[:176, :192]
    waves = np.stack([np.sin(x / 9 + seed), np.cos(y / 7), np.sin((x + y) / 11)], axis=2)
    noise = np.random.default_rng(seed).normal(0, 4, waves.shape)
    return Image.fromarray(np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(("a.png", "b.png")):
        photograph(seed).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def plan_of(folder: Path, out: Path, **changes: object) -> run.Plan:
    codecs = run.choose(FAMILIES_RUN, slowest=False)
    return replace(run.Plan(run.find_pictures([folder]), codecs, out, qualities=3), **changes)


def run_plan(plan: run.Plan) -> Results:
    return run.run(plan, lambda _: None, lambda: None)


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[run.Plan, Results]:
    plan = plan_of(folder, tmp_path_factory.mktemp("out"))
    return plan, run_plan(plan)


def test_a_cache_forgets_nothing_but_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    Cache(path).put("a", {"x": 1.5})
    with path.open("a") as file:
        file.write('{"key": "b", "val')
    cache = Cache(path)
    assert (cache.get("a"), cache.get("b")) == ({"x": 1.5}, None)
    cache.put("b", [2])
    assert (Cache(path).get("a"), Cache(path).get("b")) == ({"x": 1.5}, [2])


def test_thinned_sweeps_keep_their_ends() -> None:
    assert list(thinned((1, 2, 3, 4, 5), 3)) == [1, 3, 5]
    assert thinned((1, 2), 4) == (1, 2)
    assert thinned((1, 2, 3), None) == (1, 2, 3)


def test_a_measurement_is_of_real_bytes(folder: Path) -> None:
    image = measure.read_rgb(folder / "a.png")
    lossy = measure.measure(Job(folder / "a.png", "JPEG", 60))
    data = JPEG.encode(image, 60)
    assert lossy.file_bytes == len(data)
    assert lossy.bpp == 8 * len(data) / (192 * 176)
    mse = np.mean((np.asarray(image, float) - np.asarray(JPEG.decode(data), float)) ** 2)
    assert lossy.psnr_db == pytest.approx(10 * np.log10(255**2 / mse))
    assert None not in (lossy.ssim, lossy.ms_ssim_db, lossy.ssimulacra2)
    exact = measure.measure(Job(folder / "a.png", "PNG", 100))
    assert (exact.psnr_db, exact.ssim, exact.ms_ssim_db, exact.ssimulacra2) == (None, 1, None, 100)


def test_a_picture_too_small_for_a_metric_is_measured_by_the_others(tmp_path: Path) -> None:
    photograph(0).crop((0, 0, 100, 90)).save(tmp_path / "small.png")
    point = measure.measure(Job(tmp_path / "small.png", "JPEG", 60))
    assert point.ms_ssim_db is None
    assert point.ssim is not None


@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
def test_every_codec_gives_pictures_back_and_says_its_version(codec) -> None:
    image = photograph(3)
    quality = codec.qualities[len(codec.qualities) // 2]
    decoded = codec.decode(codec.encode(image, quality))
    assert (decoded.size, decoded.mode) == (image.size, "RGB")
    error = np.abs(np.asarray(decoded, int) - np.asarray(image, int))
    assert (error.max() == 0) == codec.lossless
    assert error.mean() < 12
    assert codec.version()


@pytest.mark.parametrize("codec", [c for c in CODECS.values() if not c.lossless and not c.slow], ids=lambda c: c.name)
def test_files_grow_with_the_quality(codec) -> None:
    image = photograph(4)
    sizes = [len(codec.encode(image, quality)) for quality in thinned(codec.qualities, 4)]
    assert sizes == sorted(sizes)


def test_choose_knows_families_and_leaves_slow_codecs_out() -> None:
    chosen = run.choose("avif,calotype", slowest=False)
    assert [c.name for c in chosen] == ["AVIF", "AVIF (PSNR)", *(c.name for c in FAMILIES["calotype"] if not c.slow)]
    for family in ("avif", "calotype"):
        assert run.choose(family, slowest=True) == FAMILIES[family]
    with pytest.raises(OptionError, match=r"'gif' is not one of calotype, jpeg"):
        run.choose("jpeg,gif", slowest=False)


def test_pictures_come_from_folders_and_files(folder: Path, tmp_path: Path) -> None:
    assert [p.name for p in run.find_pictures([folder])] == ["a.png", "b.png"]
    assert run.find_pictures([folder / "b.png"]) == (folder / "b.png",)
    with pytest.raises(OptionError, match="two pictures are called"):
        run.find_pictures([folder, folder / "a.png"])
    with pytest.raises(OptionError, match="no picture in"):
        run.find_pictures([tmp_path])
    with pytest.raises(OptionError, match="no such file"):
        run.find_pictures([tmp_path / "nowhere"])


def test_a_run_measures_everything_in_order_and_writes_it(finished: tuple[run.Plan, Results]) -> None:
    plan, results = finished
    jobs = jobs_of(plan.pictures, plan.codecs, 3)
    assert [(p.picture, p.codec, p.quality) for p in results.points] == [
        (job.picture.name, job.codec, job.quality) for job in jobs
    ]
    assert len(jobs) == POINTS
    assert (plan.out / "results.json").read_text() == results.to_json()
    assert json.loads(results.to_json())["points"] == [asdict(point) for point in results.points]
    assert len((plan.out / "results.csv").read_text().splitlines()) == POINTS + 1
    for name in ("rd-psnr_db", "rd-ms_ssim_db", "rd-ssimulacra2", "bd-rate", "time"):
        assert (plan.out / "plots" / f"{name}.png").stat().st_size > 5000
        assert "<svg" in (plan.out / "plots" / f"{name}.svg").read_text()
    page = (plan.out / "results.md").read_text()
    assert "calotype bench" in page
    assert "| JPEG (4:4:4) |" in page
    assert "</html>" in (plan.out / "report.html").read_text()


def test_speed_and_memory_are_measured_for_every_codec(finished: tuple[run.Plan, Results]) -> None:
    _, results = finished
    assert [t.codec for t in results.timings] == [c.name for c in results.codecs]
    for timing in results.timings:
        usual = 192 * 176 / 1000 / timing.encode_ms  # a median of other ratios: far from it only on a busy machine
        assert usual / 10 < timing.encode_mp_s < 10 * usual
        assert 10 < timing.decode_peak_mb < 2000
    peak_mb = {timing.codec: timing.encode_peak_mb for timing in results.timings}
    assert peak_mb["calotype"] > peak_mb["JPEG"] + 20  # networks against a JPEG


def test_a_second_run_comes_from_the_cache(finished: tuple[run.Plan, Results], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, results = finished
    names = ("results.json", "results.csv", "results.md", "report.html")
    before = {name: (plan.out / name).read_bytes() for name in names}

    def refuse(*args: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(measure, "measure", refuse)
    monkeypatch.setattr(run.pace, "timings", refuse)
    monkeypatch.setattr(run.exhibits, "quality_at_size", refuse)
    assert run_plan(plan) == results
    assert {name: (plan.out / name).read_bytes() for name in names} == before


def test_the_cache_goes_by_content_and_version(finished: tuple[run.Plan, Results], tmp_path: Path) -> None:
    plan, _ = finished
    cache = Cache(plan.out / "cache.jsonl")
    renamed = tmp_path / "renamed.png"
    renamed.write_bytes(plan.pictures[0].read_bytes())
    (point,) = measure_all([Job(renamed, "JPEG", 5)], cache, workers=0)  # no worker could measure it
    assert point.picture == "renamed.png"
    photograph(9).save(renamed)
    with pytest.raises(ValueError, match="max_workers"):
        list(measure_all([Job(renamed, "JPEG", 5)], cache, workers=0))


def test_killed_in_the_middle_it_goes_on_to_the_same_results(
    finished: tuple[run.Plan, Results], folder: Path, tmp_path: Path
) -> None:
    _, results = finished
    command = [sys.executable, "-c", "from calotype.cli import main; main()", "bench", str(folder)]
    command += ["--codecs", FAMILIES_RUN, "--out", str(tmp_path), "-j", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    cache = tmp_path / "cache.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (cache.exists() and cache.stat().st_size > 2000):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # the workers hold the pipe, too: they must end
    assert 0 < len(cache.read_text().splitlines()) < 2 * (12 + 30 + 1)
    again = run_plan(plan_of(folder, tmp_path))
    assert again.points == results.points


def test_the_command_refuses_what_it_cannot_do(folder: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ([str(folder), "--codecs", "gif"], "--codecs 'gif' is not one of"),
        ([str(tmp_path / "nowhere")], "no such file"),
        ([str(folder), "--reference", str(tmp_path / "none")], "--reference"),
        ([str(folder), "--reference", str(folder), "--quick"], "--quick takes a few pictures"),
    ):
        result = CliRunner().invoke(app, ["bench", *arguments, "--out", str(tmp_path / "out")])
        assert isinstance(result.exception, OptionError)
        assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_small_pictures_and_drawings_are_left_out_of_curves_by_name(tmp_path: Path) -> None:
    drawing = Image.new("RGB", (200, 180), "white")
    drawing.paste("black", (20, 20, 90, 60))
    drawing.save(tmp_path / "drawing.png")
    photograph(1).save(tmp_path / "photo.png")
    photograph(2).crop((0, 0, 100, 90)).save(tmp_path / "small.png")
    codecs = run.choose("calotype,jpeg", slowest=False)
    plan = run.Plan(run.find_pictures([tmp_path]), codecs, tmp_path / "out", qualities=3)
    results = run_plan(plan)
    assert results.pictures_of("psnr_db") == {"photo.png", "small.png"}
    assert results.pictures_of("ms_ssim_db") == {"photo.png"}
    assert len(results.curve("calotype", "ms_ssim_db").bpp) == 3
    page = (plan.out / "results.md").read_text()
    assert (
        "Not in the curves of PSNR (RGB), dB, for some codec gave them back exactly or they are too small: drawing.png"
        in page
    )


def test_of_many_names_the_first_are_listed() -> None:
    assert markdown._some(["a", "b"]) == "a, b"
    assert markdown._some([str(n) for n in range(225)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 215 more"


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "LA"])
def test_pictures_that_not_every_codec_holds_are_refused(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (64, 64)).save(tmp_path / "odd.png")
    with pytest.raises(InputError, match=r"odd\.png: mode .* is deeper than 8 bits or transparent"):
        measure.measure(Job(tmp_path / "odd.png", "JPEG", 60))
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot be read"):
        measure.measure(Job(tmp_path / "no.png", "JPEG", 60))


def test_what_a_codec_cannot_hold_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (16400, 1)).save(tmp_path / "long.png")
    with pytest.raises(InputError, match=r"long\.png: WebP at quality 55: "):
        measure.measure(Job(tmp_path / "long.png", "WebP", 55))


def test_two_equal_pictures_are_two_points(folder: Path, tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes((folder / "a.png").read_bytes())
    jobs = [Job(tmp_path / name, "JPEG", 60) for name in ("one.png", "two.png")]
    for _ in range(2):
        points = list(measure_all(jobs, Cache(tmp_path / "cache.jsonl"), workers=1))
        assert sorted(p.picture for p in points) == ["one.png", "two.png"]


def test_published_curves_join_the_tables(finished: tuple[run.Plan, Results], tmp_path: Path) -> None:
    _, results = finished
    points = [{"bpp": bpp, "psnr": psnr} for bpp, psnr in ((0.2, 20.0), (1.0, 30.0), (4.0, 45.0))]
    (tmp_path / "x.json").write_text(json.dumps({"name": "VTM-18.0", "source": "nowhere", "points": points}))
    (tmp_path / "y.json").write_text(json.dumps({"name": "one point", "points": points[:1]}))
    for text in ("{}", "[1]", '{"name": "x", "points": [{"bpp": -1, "psnr": 3}, {"bpp": 1, "psnr": 4}]}'):
        (tmp_path / "z.json").write_text(text)
        with pytest.raises(InputError, match=r"z\.json: not a published curve"):
            read_published(tmp_path)
    (tmp_path / "z.json").unlink()
    published = read_published(tmp_path)
    assert [p.name for p in published] == ["VTM-18.0"]
    table = bd_tables(replace(results, published=published))["psnr_db"]
    assert table.anchors == ("JPEG", "VTM-18.0 (published)")
    assert [row.codec for row in table.rows if row.published] == ["VTM-18.0 (published)"]
    ours = next(row for row in table.rows if row.codec == "JPEG")
    assert ours.bd_rate[0] == pytest.approx(0, abs=1e-9)
    assert ours.bd_rate[1] is not None


def test_models_are_compared_and_are_anchors(folder: Path, tmp_path: Path) -> None:
    codecs = run.choose("webp", slowest=False, models=["photo"])
    results = run_plan(plan_of(folder, tmp_path, codecs=codecs[:1] + codecs[-1:], workers=1))
    assert [codec.name for codec in results.codecs] == ["WebP", "photo"]
    table = bd_tables(results)["psnr_db"]
    assert table.anchors == ("WebP", "photo")
    assert table.rows[1].bd_rate[1] == 0
    slowest = run.choose("webp", slowest=True, models=["photo"])[-2:]
    assert [(codec.name, codec.settings.split(",")[0]) for codec in slowest] == [
        ("photo", "effort 2"),
        ("photo (effort 7)", "effort 7"),
    ]
    with pytest.raises(ModelNotFound):
        run.choose("webp", slowest=False, models=["nowhere"])
