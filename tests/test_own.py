"""A codec of one's own: what a folder holds, the run that suits it, and models of one channel and of four."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import calotype
from calotype import bands, bundle, container
from calotype.bundle import Bundle
from calotype.cli import app, rivals
from calotype.codec import runtime_of
from calotype.decoder import develop, tile_latents
from calotype.errors import InputError, OptionError
from calotype.learn import folder as folders
from calotype.learn import rates
from calotype.learn.config import Architecture, Recipe
from calotype.learn.data import Pictures, find_pictures
from calotype.learn.fit import weights_from
from calotype.learn.grow import with_one_channel
from calotype.learn.model import Codec
from calotype.learn.samples import Form
from calotype.learn.split import Data
from calotype.learn.train import rate_factor
from calotype.runtime import Runtime
from conftest import psnr_db

SMALL = Architecture(y_channels=16, z_channels=8, width=16, blocks=2, prior_width=16, context_steps=2, context_blocks=1)


def _bands(photo: Image.Image, dtype: type = np.uint8) -> np.ndarray:
    """Four bands (128, 160, 4): the three of a photograph and their mean."""
    rgb = np.asarray(photo)[100:228, 100:260].astype(np.float64)
    four = np.concatenate([rgb, rgb.mean(2, keepdims=True)], axis=2) / 255
    return (four * np.iinfo(dtype).max).astype(dtype)


# --- the folder -----------------------------------------------------------------------------------------------------


def test_a_folder_is_looked_at(tmp_path: Path, photo: Image.Image) -> None:
    grey = photo.convert("L")
    grey.crop((0, 0, 100, 90)).save(tmp_path / "a.png")
    grey.crop((0, 0, 100, 90)).save(tmp_path / "b.png")
    grey.convert("RGB").crop((9, 9, 129, 109)).save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"no picture")
    found = folders.inspect(find_pictures([tmp_path]))
    assert [path.name for path in found.paths] == ["a.png", "c.png"]
    assert [path.name for path in found.duplicates] == ["b.png"]
    assert [path.name for path in found.unreadable] == ["d.png"]
    assert found.sizes_px == [(90, 100), (100, 120)]
    assert found.form == Form(1, 8)
    assert "2 pictures, grey, 8 bits" in str(found)
    photo.save(tmp_path / "e.png")
    assert folders.inspect(find_pictures([tmp_path])).form == Form(3, 8)


def test_deep_and_banded_pictures_are_recognised(tmp_path: Path, photo: Image.Image) -> None:
    for i, suffix in enumerate((".npy", ".tif")):
        (tmp_path / f"{i}{suffix}").write_bytes(bands.serialise(_bands(photo, np.uint16), suffix))
    found = folders.inspect(find_pictures([tmp_path]))
    assert found.form == Form(4, 16)
    assert found.sizes_px == [(128, 160)] * 2
    pictures = Pictures(found.paths, 64, form=found.form)
    assert all(np.array_equal(picture.numpy(), _bands(photo, np.uint16)) for picture in pictures)
    assert not pictures.skipped


@pytest.mark.parametrize("kind", ["archive of arrays", "text", "objects", "one axis"])
def test_arrays_that_are_no_pictures_are_named(tmp_path: Path, kind: str) -> None:
    path, file = tmp_path / "a.npy", io.BytesIO()
    if kind == "archive of arrays":
        np.savez(file, np.zeros((9, 9), np.uint8))
    elif kind != "text":
        np.save(file, np.zeros(9, np.uint8) if kind == "one axis" else np.array([None] * 9, object))
    path.write_bytes(file.getvalue() or bands.serialise(np.zeros((9, 9, 1), np.uint8), ".npy")[:10] + b"?" * 90)
    with pytest.raises(InputError, match="1 files, but no picture"):
        folders.inspect([path])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("SET", "--minutes", "0", "--from", "none"), "would not end"),
        (("SET", "--arch", "hyperprior", "--resize", "32"), "--resize has no effect"),
        (("digits", "--arch", "hyperprior", "--lossless", "SET"), "--lossless has no effect"),
        (("digits", "SET", "--arch", "hyperprior"), "goes alone"),
    ],
)
def test_what_has_no_effect_is_refused(tmp_path: Path, photo: Image.Image, words: tuple[str, ...], said: str) -> None:
    photo.crop((0, 0, 64, 64)).save(tmp_path / "a.png")
    given = [str(tmp_path) if word == "SET" else word for word in words]
    done = CliRunner().invoke(app, ["train", *given, "-o", str(tmp_path / "mine.calomodel")])
    assert isinstance(done.exception, OptionError)
    assert said in str(done.exception)
    assert not (tmp_path / "mine.run").exists()


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="1 files, but no picture"):
        folders.inspect(find_pictures([tmp_path]))


def test_pictures_of_another_form_are_skipped_or_converted(tmp_path: Path, photo: Image.Image) -> None:
    photo.crop((0, 0, 64, 64)).save(tmp_path / "colour.png")
    photo.convert("L").crop((0, 0, 64, 64)).save(tmp_path / "grey.png")
    (tmp_path / "bands.npy").write_bytes(bands.serialise(_bands(photo), ".npy"))
    paths = find_pictures([tmp_path])
    skipped = {c: {p.name for p in Pictures(paths, 64, form=Form(c)).skipped} for c in (1, 3, 4)}
    assert skipped == {1: {"bands.npy", "colour.png"}, 3: {"bands.npy"}, 4: {"colour.png", "grey.png"}}
    deep = Pictures([tmp_path / "grey.png"], 64, form=Form(1, 16))[0]
    assert deep.dtype == torch.uint16
    assert np.array_equal(deep.numpy() % 257, np.zeros((64, 64, 1)))


@pytest.mark.parametrize(("side", "crop_px"), [(28, 64), (128, 128), (240, 128), (2000, 128)])
def test_crops_follow_the_pictures(side: int, crop_px: int) -> None:
    found = folders.Folder([Path("a")] * 4, [], [(side, 2 * side)] * 4, Form(4), {})
    plan = folders.plan(found, 20, folders.SMALL, None)
    assert (plan.recipe.crop_px, plan.recipe.minutes) == (crop_px, 20)
    assert plan.recipe.batch * crop_px**2 <= max(2 * crop_px**2, folders.CROPS_AREA_PX)
    assert plan.architecture.channels == 4
    assert plan.architecture.width < Architecture().width


def test_the_rate_follows_the_clock() -> None:
    recipe = Recipe(steps=folders.ENDLESS, minutes=2, warmup=4)
    assert rate_factor(1, recipe, 0.0) == 0.5
    assert rate_factor(100, recipe, 60.0) == pytest.approx(0.5)
    assert rate_factor(100, recipe, 120.0) == pytest.approx(0)


def test_what_is_said_of_rivals(photo: Image.Image) -> None:
    small = np.asarray(photo.crop((0, 0, 64, 64)))
    others = rivals.measured([small, small[:, :, :1]])
    assert set(others) == {"AVIF (PSNR)", "WebP"}
    assert "-50% bytes against WebP" in rivals.against(others, [(bpp / 2, db) for bpp, db in others["WebP"]])
    assert "no PSNR in common with WebP" in rivals.against(others, [(1, 90.0), (2, 95.0)])
    assert rivals.measured([small.repeat(2, axis=2)]) == {}
    assert rivals.measured([small.astype(np.uint16)]) == {}


# --- one channel ----------------------------------------------------------------------------------------------------


def test_a_codec_of_one_channel_does_what_that_of_three_did_with_grey() -> None:
    torch.manual_seed(0)
    three = Codec(SMALL).eval()
    one = Codec(replace(SMALL, channels=1)).eval()
    for name, parameter in three.named_parameters():
        if "shortcut" in name or name.endswith("bias"):
            parameter.data.normal_(0, 0.1)
    one.load_state_dict(with_one_channel(three.state_dict()))
    x, level = torch.rand(2, 1, 64, 128) - 0.5, torch.tensor([40, 200])
    with torch.no_grad():
        y = three.g_a(x.expand(-1, 3, -1, -1), level)
        torch.testing.assert_close(one.g_a(x, level), y, rtol=1e-4, atol=1e-3)
        whole = three.g_s(y, level).mean(1, keepdim=True)
        torch.testing.assert_close(one.g_s(y, level), whole, rtol=1e-4, atol=1e-3)


def test_photo_starts_a_codec_of_one_channel(photo_model: Bundle) -> None:
    arch = Architecture(**{**photo_model.manifest.card["architecture"], "channels": 1})
    Codec(arch).load_state_dict(weights_from("photo", arch))
    with pytest.raises(InputError, match=r"g_a\.shortcut\.weight"):
        weights_from("photo", replace(arch, channels=2))


# --- the command ----------------------------------------------------------------------------------------------------


def _train(source: Path, out: Path, *more: str) -> list[str]:
    begun = [sys.executable, "-m", "calotype", "train", str(source), "-o", str(out), "--device", "cpu"]
    return [*begun, "--from", "none", "--scale", "small", "--batch", "2", *more]


@pytest.fixture(scope="module", params=["grey", "bands"])
def trained(
    request: pytest.FixtureRequest, photo: Image.Image, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, np.ndarray, Path]:
    """A model of a few steps, a picture of its kind and its file."""
    place = tmp_path_factory.mktemp(request.param)
    (place / "set").mkdir()
    grey = request.param == "grey"
    picture = np.asarray(photo.convert("L"))[100:228, 100:260] if grey else _bands(photo, np.uint16)
    for i in range(3):
        turned = np.ascontiguousarray(np.roll(picture, 40 * i, axis=0))
        (place / "set" / f"{i}.npy").write_bytes(bands.serialise(turned, ".npy"))
    out = place / "mine.calomodel"
    done = subprocess.run(_train(place / "set", out, "--steps", "6"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("3 pictures, grey, 8 bits" if grey else "3 pictures, 4 bands, 16 bits, 160x128") in done.stderr
    assert ("bytes against" in done.stderr) == grey
    return bundle.read(out), picture, place / "set" / "0.npy"


def test_models_of_other_channels_code_exactly(trained: tuple[Bundle, np.ndarray, Path]) -> None:
    model, picture, _ = trained
    data = calotype.encode(picture, quality=80, model=model)
    restored = calotype.decode_array(data, model=model)
    assert (restored.shape, restored.dtype) == (picture.shape, picture.dtype)
    assert psnr_db(restored, picture) > 20
    whole = container.unpack(data)
    coding = whole.header.coding
    assert coding is not None
    assert whole.header.alpha is False
    same = [latents.y8 for latents in tile_latents(whole, runtime_of(model), coding)]
    for threads, optimise in ((1, True), (2, False)):
        other = Runtime(model, threads, optimise=optimise)
        assert all(np.array_equal(a, b.y8) for a, b in zip(same, tile_latents(whole, other, coding), strict=True))
        samples = develop(whole, other).samples.astype(int).reshape(picture.shape)
        assert np.abs(samples - restored).max() <= 1


def test_models_of_other_channels_work_from_the_command_line(
    trained: tuple[Bundle, np.ndarray, Path], tmp_path: Path
) -> None:
    model, picture, source = trained
    suffix = ".png" if picture.ndim == 2 else ".tif"
    coded, restored = tmp_path / "a.calo", tmp_path / f"a{suffix}"
    command = [sys.executable, "-m", "calotype"]
    named = ["-m", str(model.path)]
    said = subprocess.run(
        [*command, "encode", str(source), str(coded), "--verify", *named], check=True, capture_output=True, text=True
    ).stderr
    assert " dB" in said
    subprocess.run([*command, "decode", str(coded), str(restored), *named], check=True, capture_output=True)
    found = np.asarray(Image.open(restored)) if suffix == ".png" else bands.read(io.BytesIO(restored.read_bytes()))
    assert np.array_equal(found, calotype.decode_array(coded.read_bytes(), model=model))


def test_colour_does_not_fit_a_model_of_one_channel(
    trained: tuple[Bundle, np.ndarray, Path], photo: Image.Image
) -> None:
    model, picture, _ = trained
    with pytest.raises(InputError, match=f"3 channels; the model mine codes {model.manifest.channels}"):
        calotype.encode(photo, model=model)
    if picture.ndim == 2:
        grey = Image.fromarray(picture).convert("RGB")
        assert calotype.decode(calotype.encode(grey, model=model), model=model).mode == "L"


def _progress(log: Path) -> list[float]:
    """Of the rows about training; others are about validation."""
    return [row["progress"] for row in map(json.loads, log.read_text().splitlines()) if "progress" in row]


def test_a_run_by_the_clock_goes_on_where_it_was(tmp_path: Path, photo: Image.Image) -> None:
    (tmp_path / "set").mkdir()
    for i in range(2):
        photo.crop((64 * i, 0, 64 * i + 128, 64)).save(tmp_path / "set" / f"{i}.png")
    out, log = tmp_path / "mine.calomodel", tmp_path / "mine.run" / "log.jsonl"
    command = _train(tmp_path / "set", out, "--minutes", "0.05")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (log.exists() and log.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    if process.returncode == 130:  # it may have been at its end
        assert "goes on" in said
        assert _progress(log)[-1] < 1
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    progress = _progress(log)
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert out.exists()


def test_rates_of_small_images_from_a_model_that_grows() -> None:
    images = [np.random.default_rng(i).integers(0, 256, (28, 20, 1), np.uint8) for i in range(8)]
    arch = Architecture(channels=1, y_channels=32, z_channels=16, width=32, blocks=2, prior_width=32, context_blocks=1)
    weights = Codec(replace(arch, y_channels=16)).state_dict()
    suited = rates.suited(Recipe(crop_px=64, batch=4), arch, weights, Data.of(images, images, torch.device("cpu")))
    assert suited.muon_rate == rates.FROM_MODEL.usual.muon_rate


@pytest.mark.parametrize("start", ["photo", None])
def test_smooth_pictures_bear_smaller_rates(start: str | None, photo: Image.Image, photo_model: Bundle) -> None:
    arch = Architecture(**{**photo_model.manifest.card["architecture"], "channels": 1})
    grey = np.asarray(photo.convert("L").crop((200, 40, 328, 168)))[..., None]
    smooth = np.asarray(Image.fromarray(grey[..., 0]).reduce(8).resize((128, 128), Image.Resampling.BICUBIC))[..., None]
    weights = None if start is None else weights_from(start, arch)
    data = [Data.of([x], [x], torch.device("cpu")) for x in (grey, smooth)]
    usual, gentle = (rates.suited(Recipe(crop_px=64), arch, weights, one) for one in data)
    assert gentle.transform_share < usual.transform_share
    assert gentle.muon_rate <= usual.muon_rate
    assert usual.crop_px == gentle.crop_px == 64
