"""The training engine: data, one run, its checkpoints, and the command around it."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import calotype
from calotype import bundle, pixels
from calotype.cli import app, rivals
from calotype.errors import InputError, OptionError
from calotype.header import unpack_header
from calotype.learn import checkpoint, config, grow, split
from calotype.learn import data as learn_data
from calotype.learn.config import SYNTHESIS, Architecture, Config, Recipe
from calotype.learn.data import Crops, Pictures, find_pictures, memory_bytes
from calotype.learn.fit import CHECKPOINT, CONFIG, Watcher, fit, make_fabric, weights_from
from calotype.learn.model import Codec, lambda_of
from calotype.learn.plan import PICTURES, write
from calotype.learn.split import Data
from calotype.learn.train import STATE, DivergedError, Row, Training, beyond, run
from calotype.learn.transforms import as_shown
from calotype.learn.watch import LOG, Log, curve

SMALL = Architecture(y_channels=32, z_channels=16, width=32, blocks=2, prior_width=32, context_blocks=1)
RECIPE = Recipe(steps=30, batch=4, crop_px=64, warmup=2)


@pytest.fixture
def make(folder: Path) -> Callable[..., Training]:
    def make(**changes: int) -> Training:
        recipe = replace(RECIPE, **changes)
        pictures = Pictures(find_pictures([folder]), recipe.crop_px)
        return Training(Config(SMALL, recipe), Crops(pictures, pictures, recipe))

    return make


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as a user would."""
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def _losses(training: Training, steps: int) -> list[float]:
    batches = training.crops.batches(training.step, training.step + steps)
    return [float(training.advance(*batch)[0]) for batch in batches]


# --- data -----------------------------------------------------------------------------------------------------------


def test_pictures_come_from_folders_patterns_and_lists(folder: Path) -> None:
    both = [folder / "0.png", folder / "90.png"]
    assert find_pictures([folder]) == find_pictures([str(folder / "*.png")]) == find_pictures(both) == both
    assert find_pictures([folder, both[0]]) == both
    with pytest.raises(InputError, match="nowhere"):
        find_pictures([folder / "nowhere"])


@pytest.mark.parametrize("most_bytes", [0, 1 << 30])
def test_what_is_no_picture_is_skipped_and_named(tmp_path: Path, photo: Image.Image, most_bytes: int) -> None:
    photo.save(tmp_path / "a.png")
    photo.resize((50, 50)).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG....")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("not a picture, and not meant to be one")
    pictures = Pictures(find_pictures([tmp_path]), 64, most_bytes=most_bytes)
    assert {p.name for p in pictures.skipped} >= {"small.png", "broken.png"}
    crops = Crops(pictures, None, RECIPE)
    for i in range(10):
        assert crops.batch(i)[0].shape == (4, 3, 64, 64)
    if most_bytes:
        assert "cut.png" in {p.name for p in pictures.skipped}
    with pytest.raises(InputError, match="1000"):
        Pictures(find_pictures([tmp_path]), 1000)


def test_grain_is_added_to_some_of_the_crops(folder: Path) -> None:
    pictures = Pictures(find_pictures([folder]), 64)
    plain, some, every = (Crops(pictures, None, replace(RECIPE, batch=16, grain=share)) for share in (0.0, 0.5, 1.0))
    noise = 255 * (every.batch(0)[0] - plain.batch(0)[0])
    assert 0.3 < float(noise.std((1, 2, 3)).min()) < float(noise.std((1, 2, 3)).max()) < 4
    assert float(noise.mean((1, 2, 3)).abs().max()) < 0.3
    assert float(every.batch(0)[0].abs().max()) <= 0.5
    changed = [(some.batch(i)[0] != plain.batch(i)[0]).flatten(1).any(1) for i in range(4)]
    assert 16 < int(torch.cat(changed).sum()) < 48
    again = Crops(pictures, None, replace(RECIPE, batch=16, grain=0.5))
    assert torch.equal(again.batch(3)[0], some.batch(3)[0])


def test_some_crops_are_larger_squares_made_smaller(tmp_path: Path) -> None:
    stripes = Image.fromarray(np.tile(np.uint8([0, 255]), (128, 64)))
    stripes.convert("RGB").save(tmp_path / "wide.png")
    stripes.crop((0, 0, 128, 64)).convert("RGB").save(tmp_path / "low.png")
    wide, low = (Pictures(find_pictures([tmp_path / name]), 64) for name in ("wide.png", "low.png"))

    def faded(pictures: Pictures, share: float) -> int:
        """How many of 64 crops have lost contrast, as stripes of one pixel do that are made narrower."""
        x = Crops(pictures, None, replace(RECIPE, batch=64, shrunk=share)).batch(0)[0]
        assert x.shape == (64, 3, 64, 64)
        assert float(x.abs().max()) <= 0.5
        return int((x.std((1, 2, 3)) < 0.4).sum())

    assert faded(wide, 0.0) == faded(low, 1.0) == 0
    assert 8 < faded(wide, 0.5) < 32 < faded(wide, 1.0)


STREAMED = """
import sys, torch
from calotype.learn.config import Recipe
from calotype.learn.data import Crops, Pictures, find_pictures
recipe, paths = Recipe(batch=4, crop_px=64), find_pictures(sys.argv[1:])
held, streamed = (Crops(Pictures(paths, 64, most_bytes=most), None, recipe) for most in (1 << 30, 0))
for (x, level, _), (other, same, _) in zip(held.batches(3, 6), streamed.batches(3, 6, workers=2), strict=True):
    assert torch.equal(x, other) and torch.equal(level, same)
print("equal")
"""


def test_held_and_streamed_pictures_give_the_same_crops(folder: Path) -> None:
    """In a process of its own: after workers were forked beside OpenVINO's threads, the next child crashes this one."""
    assert _run([sys.executable, "-c", STREAMED, str(folder)]).stdout == "equal\n"


@pytest.mark.parametrize("most_bytes", [0, 1 << 30])
def test_tables_are_fitted_to_a_sample_of_what_can_be_decoded(
    tmp_path: Path, photo: Image.Image, most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(6):
        photo.crop((i, 0, i + 128 + 64 * (i % 2), 96)).save(tmp_path / f"{i}.png")
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:5000])
    pictures = Pictures(find_pictures([tmp_path]), 64, most_bytes=most_bytes)
    data = Data(pictures, None, pictures)
    monkeypatch.setattr(split, "CALIBRATION_PX", 128)
    drawn = [picture.samples.tobytes() for picture in data.calibration(seed=3)]
    assert set(drawn) == {photo.crop((x, 0, x + 128, 96)).tobytes() for x in (1 + 32, 2, 3 + 32, 4, 5 + 32)}
    assert len(drawn) == 5
    monkeypatch.setattr(split, "MOST_CALIBRATION", 2)
    assert [picture.samples.tobytes() for picture in data.calibration(seed=3)] == drawn[:2]
    assert len({picture.samples.tobytes() for seed in range(40) for picture in data.calibration(seed)}) == 5


BROKEN = """
import sys
from pathlib import Path
from calotype.errors import InputError
from calotype.learn.config import Recipe
from calotype.learn.data import Crops, Pictures, find_pictures
paths = find_pictures(sys.argv[1:])
crops = Crops(Pictures(paths, 64, most_bytes=0), None, Recipe(batch=4, crop_px=64))
for path in paths:
    path.write_bytes(path.read_bytes()[:500])
for workers in (0, 2):
    try:
        next(crops.batches(0, 1, workers=workers))
    except InputError as error:
        print(error)
"""


def test_pictures_are_held_in_what_a_container_leaves(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learn_data, "CGROUP", tmp_path)
    free_bytes = memory_bytes(torch.device("cpu"))
    size_bytes = 3 * int(Pictures(find_pictures([folder]), 64).area_px.sum())
    (tmp_path / "memory.current").write_text("1000000000\n")
    (tmp_path / "memory.stat").write_text("anon 12345\ninactive_file 10000\n")
    for limit, is_held in (("max", True), (10**9 + 2 * size_bytes, True), (10**9 + 2 * size_bytes - 20_000, False)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert (Pictures(find_pictures([folder]), 64).held is not None) == is_held
    assert memory_bytes(torch.device("cpu")) == 2 * size_bytes - 10_000 < free_bytes


def test_when_no_picture_can_be_decoded_drawing_ends(tmp_path: Path, folder: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "pictures")
    said = _run([sys.executable, "-c", BROKEN, str(copied)]).stdout.splitlines()
    assert len(said) == 2
    assert said[0] == said[1]
    assert "none of 200 pictures" in said[0]


@pytest.mark.parametrize("brighter", [0.0, 0.5])
def test_padding_is_no_part_of_the_loss(brighter: float) -> None:
    sizes_px = [(28, 20), (100, 40), (16, 128), (60, 128)]
    images = [np.random.default_rng(i).integers(0, 256, (*size, 1), np.uint8) for i, size in enumerate(sizes_px)]
    recipe = replace(RECIPE, crop_px=128)
    training = Training(Config(replace(SMALL, channels=1), recipe), Crops(Pictures.of(images, "cpu"), None, recipe))
    x, level, drawn_px = training.crops.batch(1)
    assert drawn_px is not None
    assert len({tuple(size) for size in drawn_px.tolist()}) > 1
    codec = training.codec.eval()
    with torch.no_grad():
        codec.g_s.head.bias += brighter
        coded = codec(x, level, drawn_px)
        loss, bpp, mse = training.objective(x, level, drawn_px).tolist()
    wanted: list[tuple[float, float, float]] = []
    for i, (height, width) in enumerate(drawn_px.tolist()):
        assert (height, width) in sizes_px
        whole, image = x[i, :, :, :width], x[i : i + 1, :, :height, :width]
        assert (whole[:, height:] == whole[:, height - 1 : height]).all()  # at the lower side, as encoders pad
        made = coded.x_hat[i : i + 1, :, :height, :width]
        error, lam = float((as_shown(made) - image).square().mean()), float(lambda_of(codec.arch, level[i]))
        far = float(beyond(made))
        assert (far > 0) == (brighter > 0)
        rate = float(coded.y_bits[i] + coded.z_bits[i]) / (height * width)
        wanted.append(((rate + lam * 255**2 * (error + far)) / lam**0.5, rate, error))
    assert (loss, bpp, mse) == pytest.approx(tuple(np.mean(wanted, axis=0)), rel=1e-4)


def test_pictures_are_judged_without_their_padding() -> None:
    codec, level, height, width = Codec(replace(SMALL, channels=1)).eval(), 100, 70, 20
    whole = torch.rand(1, 1, 128, 64, generator=torch.Generator().manual_seed(0)) - 0.5
    whole[..., height:, :], whole[..., width:] = whole[..., height - 1 : height, :], whole[..., width - 1 : width]
    image = whole[..., :height, :width]
    with torch.no_grad():
        coded = codec(whole, torch.tensor([level]), torch.tensor([[height, width]]))
    (point,), x_hat = curve(codec, [image], [level])
    assert torch.equal(x_hat, coded.x_hat[..., :height, :width])
    assert point.bpp == pytest.approx(float(coded.y_bits + coded.z_bits) / (height * width), rel=1e-5)
    error = float((as_shown(x_hat) - image).square().mean())
    assert point.psnr_db == pytest.approx(-10 * math.log10(error), rel=1e-5)


def test_processes_share_the_batch_of_one(folder: Path) -> None:
    crops = Crops(Pictures(find_pictures([folder]), 64), None, RECIPE)
    whole, level, _ = crops.batch(7)
    parts = [next(crops.batches(7, 8, rank, 2)) for rank in (0, 1)]
    assert torch.equal(torch.stack([parts[0][0], parts[1][0]], 1).flatten(0, 1), whole)
    assert torch.equal(torch.stack([parts[0][1], parts[1][1]], 1).flatten(), level)


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(OptionError, match="batch 8 is no multiple of the 3 processes"):
        make_fabric("cpu", 8)


def test_levels_are_one_of_each_stratum(folder: Path) -> None:
    crops = Crops(Pictures(find_pictures([folder]), 64), None, replace(RECIPE, batch=16))
    for i in range(5):
        assert (crops.batch(i)[1] // 16).tolist() == list(range(16))


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    values = {"architecture": asdict(SMALL), "recipe": asdict(RECIPE), "card": {"name": "mine"}}
    (tmp_path / "recipe.json").write_text(json.dumps(values))
    return tmp_path / "recipe.json"


def _train(folder: Path, recipe: Path, out: Path, *more: str) -> list[str]:
    sources = ["train", str(folder), "--recipe", str(recipe), "-o", str(out), "--device", "cpu"]
    return [sys.executable, "-m", "calotype", *sources, *more]


def test_from_folder_to_file(tmp_path: Path, folder: Path, recipe: Path, photo: Image.Image) -> None:
    """Train, encode with the result: all as a user would."""
    out = tmp_path / "mine.calomodel"
    result = _run(_train(folder, recipe, out, "--validation", str(folder / "0.png")))
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "mine.run" / "log.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == 30
    assert len(rows[-1]["validation"]) >= 3
    assert list((tmp_path / "mine.run" / "tensorboard").iterdir())
    data = calotype.encode(photo, quality=70, model=out)
    assert calotype.decode(data, model=out).size == photo.size
    assert unpack_header(data).coding is not None
    card = bundle.read(out).manifest.card
    assert (card["name"], card["recipe"], card["steps_trained"]) == ("mine", asdict(RECIPE), 30)
    assert len(card["curve"]) >= 5
    others = rivals.measured([np.asarray(Image.open(folder / "0.png").convert("RGB"))])
    compared = rivals.against(others, [(row["bpp"], row["psnr_db"]) for row in card["curve"]])
    assert f"real files of the pictures to judge by: {compared}" in result.stderr
    said = (tmp_path / "mine.md").read_text()
    assert bundle.read(out).id.hex() in said
    assert "mine-worst.png" in said
    with Image.open(tmp_path / "mine-worst.png") as worst:
        assert worst.size == (128, 256)
    longer = _run(_train(folder, recipe, out, "--steps", "40"))
    assert longer.returncode == 0, longer.stderr
    assert bundle.read(out).manifest.card["steps_trained"] == 40
    other = _run(_train(folder, recipe, out, "--seed", "5"))
    assert other.returncode == 2
    assert "another recipe" in other.stderr


def test_an_interrupt_saves_and_the_command_goes_on(tmp_path: Path, folder: Path, recipe: Path) -> None:
    out = tmp_path / "mine.calomodel"
    process = subprocess.Popen(_train(folder, recipe, out, "--steps", "100000"), stderr=subprocess.PIPE, text=True)
    log = tmp_path / "mine.run" / "log.jsonl"
    while not (log.exists() and log.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "goes on" in said
    assert not out.exists()
    done = checkpoint.load(tmp_path / "mine.run" / "checkpoint.pt")["step"]
    result = _run(_train(folder, recipe, out, "--steps", str(done + 3)))
    assert result.returncode == 0, result.stderr
    assert f"goes on at step {done}" in result.stderr
    assert out.exists()


def test_two_processes_learn_what_one_does(tmp_path: Path, folder: Path, recipe: Path) -> None:
    more = "--steps", "100", "--batch", "8"
    one = _logged_losses(tmp_path, "one", _train(folder, recipe, tmp_path / "one.calomodel", *more))
    two = _logged_losses(tmp_path, "two", _by_two(_train(folder, recipe, tmp_path / "two.calomodel", *more)))
    assert one == pytest.approx(two, rel=0.03)  # the noise is another's, the crops and the levels are the same
    assert one[1] < one[0]


def test_two_processes_end_at_one_time(tmp_path: Path, folder: Path, recipe: Path) -> None:
    command = _train(folder, recipe, tmp_path / "two.calomodel", "--steps", "1000", "--minutes", "0.05")
    assert 1 <= len(_logged_losses(tmp_path, "two", _by_two(command))) < 100


def _by_two(command: list[str]) -> list[str]:
    """The command in two processes that share its work."""
    python, *arguments = command
    return [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]


def _logged_losses(folder: Path, name: str, command: list[str]) -> list[float]:
    """Run a training command of this name; the losses of its log."""
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    rows = (folder / f"{name}.run" / "log.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, rows) if "loss" in row]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "recipe"),
        ('{"recipe": {"stepz": 3}}', "stepz"),
        ('{"recipe": {"batch": -1}}', "batch"),
        ('{"recipe": {"steps": 0}}', r"steps is 0, not within 1\.\."),
        ('{"recipe": {"seed": -1}}', r"seed is -1, not within 0\.\."),
        ('{"recipe": {"seed": 4294967296}}', r"seed is .*, not within"),
        ('{"recipe": {"clip": NaN}}', "clip is nan, not within"),
        ('{"recipe": {"crop_px": 100}}', "crop_px is 100, not a multiple of 64"),
        ('{"architecture": {"width": "wide"}}', "width"),
        ('{"architecture": {"y_channels": 30}}', "y_channels is 30, not a multiple of 4"),
        ('{"architecture": {"context_steps": 3}}', "context_steps is 3, none of 2, 4"),
        ('{"architecture": {"blocks": 9}}', r"blocks is 9, not within 1\.\.8"),
        ('{"recipe": {"ema": 1.5}}', r"ema is 1.5, not within 0\.\.1"),
        ('{"architecture": {"context_steps": 4.0}}', "context_steps is 4.0, none of 2, 4"),
        ('{"card": {"name": 5}}', "the card's name is 5, not a text"),
        ('{"card": {"status": "great"}}', "the card's status is 'great'"),
        ('{"other": 1}', "nothing else"),
        ('{"card": 1}', "nothing else"),
    ],
)
def test_bad_recipes_are_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(OptionError, match=said):
        config.read(tmp_path / "r.json")


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    plan = Config(SMALL, replace(RECIPE, seed=0, warmup=0, fine_level=0))
    write(plan, tmp_path / "config.json")
    assert config.read(tmp_path / "config.json") == plan


def test_shipped_recipes_can_be_read() -> None:
    assert config.read("photo").card["name"] == "photo"
    whole = config.changed(config.read("photo").recipe, {"minutes": 3, "grain": 1}, "a file")
    assert config.changed(whole, {"minutes": 2.5, "grain": 0.25}, "options").minutes == 2.5
    with pytest.raises(OptionError, match="photo"):
        config.read("no such recipe")


# --- one run --------------------------------------------------------------------------------------------------------


def test_training_learns_and_resumes_bit_for_bit(make: Callable[..., Training], tmp_path: Path) -> None:
    straight, broken = make(), make()
    losses = _losses(straight, 30)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    _losses(broken, 11)
    checkpoint.save(broken.state(), tmp_path / "checkpoint.pt")
    torch.rand(5)  # nothing hangs on the state of the global generator
    resumed = make()
    resumed.load(checkpoint.load(tmp_path / "checkpoint.pt"))
    assert _losses(resumed, 19) == losses[11:]
    for a, b in zip(straight.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_prior_may_begin_without_rounding(make: Callable[..., Training]) -> None:
    late, always = make(dyadic_from=2), make()
    layers = [net.h_s.stem for net in (late.codec, late.average, always.codec)]
    first = _losses(late, 1), _losses(always, 1)
    assert first[0] != first[1]
    assert [layer.exact for layer in layers] == [False, True, True]
    _losses(late, 2)
    assert [layer.exact for layer in layers] == [True, True, True]


def test_weights_start_another_run(make: Callable[..., Training], tmp_path: Path) -> None:
    first = make()
    _losses(first, 3)
    checkpoint.save(first.state()["average"], tmp_path / "weights.pt")
    weights = checkpoint.load_weights(tmp_path / "weights.pt")
    second = Training(first.config, first.crops, weights=weights)
    for a, b in zip(first.average.parameters(), second.codec.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04 no weights", "no weights or checkpoint"),
        (b"", "no weights or checkpoint"),
        ([torch.ones(2)], "but a list"),
        (torch.ones(2), "but a Tensor"),
        ({"step": 3}, "tensors by name"),
        ({"average": [1]}, "tensors by name"),
        ({"head.weight": torch.ones(2)}, "no weights of a codec"),
        (Codec(replace(SMALL, width=48)).state_dict(), "g_a.blocks.0.a.bias"),
    ],
)
def test_other_files_are_no_weights(tmp_path: Path, content: object, said: str) -> None:
    path = tmp_path / "other.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=f"other.pt: .*{said}"):
        weights_from(str(path), SMALL)
    with pytest.raises(InputError, match=r"other.pt: no "):
        checkpoint.load(path, STATE)


def test_a_model_of_another_size_is_no_start() -> None:
    with pytest.raises(InputError, match=r"photo: .*y_channels"):
        weights_from("photo", SMALL)


def test_a_resumed_run_draws_no_crops_to_start_from(
    make: Callable[..., Training], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = make()
    _losses(saved, 2)
    checkpoint.save(saved.state(), tmp_path / CHECKPOINT)
    write(saved.config, tmp_path / CONFIG)
    drawn = list[int]()
    monkeypatch.setattr(Crops, "batch", lambda _, step: drawn.append(step))
    pictures = Pictures(find_pictures([folder]), 64)
    plan = replace(saved.config, recipe=replace(RECIPE, steps=2))
    assert fit(plan, Data(pictures, None, pictures), tmp_path, saved.fabric, "photo", None)
    assert not drawn


def test_a_run_of_an_older_version_says_so(make: Callable[..., Training], folder: Path, tmp_path: Path) -> None:
    saved = make()
    state = saved.state()
    state["optimisers"][0]["param_groups"].pop()
    checkpoint.save(state, tmp_path / CHECKPOINT)
    write(saved.config, tmp_path / CONFIG)
    pictures = Pictures(find_pictures([folder]), 64)
    with pytest.raises(InputError, match="another version of calotype"):
        fit(saved.config, Data(pictures, None, pictures), tmp_path, saved.fabric, None, None)


def test_numbers_that_are_not_finite_are_undone(make: Callable[..., Training]) -> None:
    training = make(steps=16)
    advance, rows = training.advance, list[Row]()

    def spoiled(x: torch.Tensor, level: torch.Tensor, _: None) -> torch.Tensor:
        return advance(x * float("nan") if training.step == 9 and training.rollbacks < 2 else x, level)

    training.advance = spoiled
    run(training, report=rows.append, every=4)
    assert [row.step for row in rows] == [4, 8, 12, 16]
    assert [row.rollbacks for row in rows] == [0, 0, 2, 2]
    assert training.is_sound()
    assert training.optimisers[0].param_groups[0]["lr"] < RECIPE.muon_rate / 4


def test_transforms_and_their_shortcuts_may_learn_more_slowly_than_the_prior(make: Callable[..., Training]) -> None:
    training = make(steps=16, transform_share=0.125, shortcut_share=0.0625)
    training.advance(*training.crops.batch(0))
    muon, adamw = training.optimisers
    prior, transforms, shortcuts = muon.param_groups
    assert transforms["lr"] == pytest.approx(prior["lr"] / 8)
    assert shortcuts["lr"] == pytest.approx(prior["lr"] / 16)
    named = {n: id(p) for n, p in training.codec.named_parameters() if p.ndim == 2 and not n.endswith("knots")}
    assert {id(p) for p in shortcuts["params"]} == {named["g_a.shortcut.weight"], named["g_s.shortcut.weight"]}
    slow = {id(p) for group in (transforms, shortcuts) for p in group["params"]}
    assert slow == {i for n, i in named.items() if n.startswith("g_")}
    assert len(adamw.param_groups) == 1


def test_the_synthesis_may_be_trained_alone(make: Callable[..., Training]) -> None:
    training = make(steps=4, trains=SYNTHESIS)
    start = {name: value.clone() for name, value in training.codec.state_dict().items()}
    _losses(training, 2)
    moved = {name.split(".")[0] for name, value in training.codec.state_dict().items() if not value.equal(start[name])}
    assert moved == {"g_s"}


def test_samples_far_beyond_a_picture_are_drawn_back() -> None:
    x_hat = torch.tensor([0.0, -0.5, 0.7, -0.8, 1.7]).reshape(1, 1, 1, 5).requires_grad_()
    cost = beyond(x_hat)
    cost.sum().backward()
    assert cost.tolist() == pytest.approx([(0.1**2 + 1) / 5])
    assert x_hat.grad is not None
    assert x_hat.grad.flatten().sign().tolist() == [0, 0, 0, -1, 1]


def test_a_run_goes_on_with_the_pictures_that_it_began_with(
    make: Callable[..., Training], folder: Path, tmp_path: Path
) -> None:
    training, run_folder = make(steps=2), tmp_path / "x.run"
    watcher = Watcher(lambda *_: None, lambda _: None, lambda *_: None)

    def goes_on(pictures: Path) -> bool:
        data = Data.find(
            find_pictures([pictures]), [pictures / "90.png"], [pictures / "0.png"], 64, torch.device("cpu")
        )
        return fit(training.config, data, run_folder, training.fabric, None, watcher)

    shutil.copytree(folder, tmp_path / "moved")
    assert goes_on(folder)
    assert goes_on(tmp_path / "moved")
    shutil.copy(folder / "90.png", tmp_path / "moved" / "b.png")
    with pytest.raises(OptionError, match=r"other pictures \(1 new, such as b\.png, \d+ bytes\); give another --run"):
        goes_on(tmp_path / "moved")
    (run_folder / PICTURES).unlink()  # as in the folder of a run that an older version began
    assert goes_on(tmp_path / "moved")
    with pytest.raises(OptionError, match=r"1 gone, such as b\.png"):
        goes_on(folder)


def test_images_of_a_data_set_are_told_apart() -> None:
    black = np.zeros((8, 8, 1), np.uint8)
    one, other = (Data.of([black, x], [black], torch.device("cpu")).listing for x in (black, black + 1))
    assert one.splitlines()[0] == other.splitlines()[0]
    assert one != other


def test_a_run_that_cannot_be_saved_says_so(make: Callable[..., Training]) -> None:
    training = make(steps=16)
    advance = training.advance
    training.advance = lambda x, level, _: advance(x * float("nan"), level)
    with pytest.raises(DivergedError, match="learning rate"):
        run(training, every=2)


def test_the_log_is_closed_however_a_run_ends(
    make: Callable[..., Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, closed = make(steps=2), list[Log]()
    close = Log.close
    monkeypatch.setattr(Log, "close", lambda log: (closed.append(log), close(log)))

    def fail(row: Row) -> None:
        raise InterruptedError(row.step)

    pictures = training.crops.pools[0]
    watcher = Watcher(lambda *_: None, fail, lambda *_: None)
    with pytest.raises(InterruptedError):
        fit(training.config, Data(pictures, None, pictures), tmp_path, training.fabric, None, watcher)
    assert len(closed) == 1
    assert json.loads((tmp_path / LOG).read_text())["step"] == 2


def test_a_run_stops_when_told(make: Callable[..., Training]) -> None:
    training, rows = make(), list[Row]()
    run(training, report=rows.append, stopped=lambda: training.step == 7, every=5)
    assert [row.step for row in rows] == [5, 7]


def test_what_a_decoder_clips_is_no_error() -> None:
    x_hat = torch.tensor([-0.9, -0.2, 0.3, 0.8], requires_grad=True)
    x = torch.tensor([-0.5, -0.1, 0.3, 0.1])
    error = (as_shown(x_hat) - x).square()
    torch.testing.assert_close(error.detach(), torch.tensor([0.0, 0.01, 0.0, 0.16]))
    error.sum().backward()
    torch.testing.assert_close(x_hat.grad, torch.tensor([0.0, -0.2, 0.0, 0.8]))  # a plain clip would leave the last


# --- what is held out, and what is left out ---------------------------------------------------------------------------


def _many(folder: Path, photo: Image.Image, count: int) -> list[Path]:
    for i in range(count):
        photo.crop((8 * i, 0, 8 * i + 100, 100)).save(folder / f"{i:02}.png")
    return sorted(folder.iterdir())


def test_what_cannot_be_judged_by_is_not_held_out(tmp_path: Path, photo: Image.Image) -> None:
    (tmp_path / ".DS_Store").write_bytes(b"of macOS")
    photo.resize((32, 32)).save(tmp_path / "-tiny.png")
    data = Data.find(_many(tmp_path, photo, 3), [], [], 64, torch.device("cpu"))
    assert [path.name for path in data.validation.paths] == ["00.png"]
    assert [path.name for path in data.train.paths] == ["01.png", "02.png"]
    assert {path.name for path in data.skipped} == {".DS_Store", "-tiny.png"}


def test_nothing_is_learned_that_is_held_out(
    tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = _many(tmp_path, photo, 3)
    monkeypatch.chdir(tmp_path)
    cpu = torch.device("cpu")
    spelled = Data.find(paths, paths, [Path("01.png")], 64, cpu)
    assert spelled.fine is not None
    for pool in (spelled.train, spelled.fine):
        assert [path.name for path in pool.paths] == ["00.png", "02.png"]
    with pytest.raises(InputError, match="leave some to learn from"):
        Data.find(paths, [], paths, 64, cpu)
    assert len(Data.find(paths[:1], [], [], 64, cpu).train) == 1  # a single picture is both


def test_held_pictures_are_where_workers_can_take_them(folder: Path) -> None:
    streamed = Pictures(find_pictures([folder]), 64, most_bytes=0)
    held = Pictures(find_pictures([folder]), 64)
    assert held.held is not None
    held.held = [picture.to("meta") for picture in held.held]
    with pytest.raises(NotImplementedError, match="meta"):  # copied from the device, before a worker could take it
        Crops(streamed, held, RECIPE)
    Crops(held, held, RECIPE)


def test_a_decoder_that_raises_what_it_likes_ends_no_run(
    tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = _many(tmp_path, photo, 2)
    whole, calls = pixels.from_image, list[Image.Image]()

    def broken(image: Image.Image, *, strip: bool) -> pixels.Picture:
        calls.append(image)
        if len(calls) == 1:
            raise RuntimeError("Decoding of color planes failed")  # as of AVIF
        return whole(image, strip=strip)

    monkeypatch.setattr(pixels, "from_image", broken)
    found = Pictures(paths, 64)
    assert len(found.paths) == 1
    assert "color planes" in next(iter(found.skipped.values()))


def test_what_cannot_be_encoded_is_not_learned_from(tmp_path: Path, photo: Image.Image) -> None:
    paths = _many(tmp_path, photo, 1)
    Image.fromarray(np.full((100, 100), 0.5, np.float32)).save(tmp_path / "float.tif")
    frames = [photo.crop((0, 0, 100, 100)), photo.crop((9, 0, 109, 100))]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    found = Pictures([*paths, tmp_path / "float.tif", tmp_path / "two.gif"], 64)
    assert found.paths == paths
    assert {path.name for path in found.skipped} == {"float.tif", "two.gif"}


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("architecture", {"y_channels": 1280}, "1024"),
        ("architecture", {"prior_width": 1100}, "1024"),
        ("architecture", {"channels": 20}, "16"),
        ("architecture", {"lambda_min": 0.5, "lambda_max": 0.1}, "over lambda_max"),
        ("recipe", {"seed": 2**32}, "seed"),
    ],
)
def test_recipes_keep_the_limits_of_the_format(
    tmp_path: Path, section: str, values: dict[str, float], said: str
) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({section: values}))
    with pytest.raises(OptionError, match=said):
        config.read(tmp_path / "recipe.json")


def test_a_large_seed_can_be_read_back(tmp_path: Path) -> None:
    write(Config(recipe=replace(RECIPE, seed=2**32 - 1)), tmp_path / "config.json")
    assert config.read(tmp_path / "config.json").recipe.seed == 2**32 - 1


def test_a_model_is_replaced_only_on_demand(tmp_path: Path, folder: Path, recipe: Path) -> None:
    (tmp_path / "mine.md").write_text("notes of my own")
    command = ["train", str(folder), "--recipe", str(recipe), "-o", str(tmp_path / "mine.calomodel")]
    refused = CliRunner().invoke(app, command).exception
    assert isinstance(refused, FileExistsError)
    assert "mine.md exists" in str(refused)
    assert not (tmp_path / "mine.run").exists()


def test_a_run_among_its_pictures_goes_on(tmp_path: Path, folder: Path, recipe: Path) -> None:
    shutil.copytree(folder, tmp_path / "in")
    command = ["train", str(tmp_path / "in"), "--recipe", str(recipe), "-o", str(tmp_path / "in" / "mine.calomodel")]
    for steps in ("2", "3"):
        done = CliRunner().invoke(app, [*command, "--steps", steps])
        assert done.exit_code == 0, done.output
    assert (tmp_path / "in" / "mine-worst.png").is_file()


def test_colour_without_colour_lets_y_grow(photo: Image.Image) -> None:
    grey = np.asarray(photo.convert("L").convert("RGB"))
    crops = torch.from_numpy(grey[:256, :256].copy()).permute(2, 0, 1)[None].float() / 255 - 0.5
    small = Codec(SMALL)
    grown_weights = grow.grown(small.state_dict(), replace(SMALL, y_channels=48), lambda: crops)
    assert all(weight.isfinite().all() for weight in grown_weights.values())
