"""The tools of development; they are run by hand, and their judgement is tested here."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calotype import library, postfilter
from calotype.learn.checkpoint import load_weights
from calotype.learn.config import Config, Recipe
from calotype.learn.data import Crops, Pictures, find_pictures
from calotype.learn.restore import codec_of
from calotype.learn.transforms import Block
from calotype.learn.watch import Point
from conftest import ROOT
from test_learn import SMALL

TOOLS = ROOT / "tools"
pytestmark = pytest.mark.skipif(not TOOLS.is_dir(), reason="tools/ is not part of the source archive")


def test_levels_finds_what_lies_over_the_hull() -> None:
    over_hull = runpy.run_path(str(TOOLS / "levels.py"))["over_hull"]
    mse = np.geomspace(1e-2, 1e-5, 20)
    size = 100 - 30 * np.log(mse)  # convex over the error, concave in log over PSNR
    assert not over_hull(size, mse).any()
    size[7] *= 1.5
    over = over_hull(size, mse)
    assert over.argmax() == 7
    assert 0.4 < over[7] < 0.6
    assert np.delete(over, 7).max() == 0
    np.testing.assert_allclose(over_hull(np.array([10.0, 20, 30]), np.array([4.0, 4, 0])), [0, 1, 0])


def test_levels_runs(tmp_path: Path, small_photo: Image.Image) -> None:
    small_photo.crop((0, 0, 64, 64)).save(tmp_path / "a.png")
    command = [sys.executable, str(TOOLS / "levels.py"), str(tmp_path / "a.png"), "--step", "64", "--processes", "1"]
    assert "of 1 pictures are good" in subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


def test_explore_compares_what_can_be_compared() -> None:
    explore = runpy.run_path(str(TOOLS / "explore.py"))
    anchor = [Point(32 * i, 0.1 * 2**i, 30.0 + 3 * i) for i in range(4)]
    half = [Point(p.level, p.bpp / 2, p.psnr_db) for p in anchor]
    apart = [Point(p.level, p.bpp, p.psnr_db + 90) for p in anchor]
    assert explore["rate_against"](half, anchor) == "-50.0%"
    assert explore["rate_against"](apart, anchor).startswith("none: ")


def test_explore_looks_further_and_no_more() -> None:
    explore = runpy.run_path(str(TOOLS / "explore.py"))
    near, far = Block(8), explore["Depthwise5x5"](8)
    weights = near.state_dict()
    weights["b.weight"] = torch.nn.functional.pad(weights["b.weight"], (1, 1, 1, 1))
    far.load_state_dict(weights)
    x = torch.randn(1, 8, 6, 7)
    torch.testing.assert_close(far(x), near(x))


def test_explore_changes_what_is_learned(folder: Path) -> None:
    explore = runpy.run_path(str(TOOLS / "explore.py"))
    recipe = Recipe(batch=2, crop_px=64, warmup=1)
    crops = Crops(Pictures(find_pictures([folder]), 64), None, recipe)

    def loss_after_a_step(variant: Any) -> float:
        training = replace(variant, config=Config(SMALL, recipe)).training(crops)
        batch = crops.batch(0)
        training.advance(*batch)
        return float(training.advance(*batch)[0])

    changes = {**explore["CHANGES"], **explore["OPTIMISERS"], **explore["STAYING"]}
    others = [name for name, change in changes.items() if change is not explore["unchanged"]]
    losses = {name: loss_after_a_step(explore["variants"]()[name]) for name in ("baseline", *others)}
    assert not [name for name in others if losses[name] == losses["baseline"]]
    assert all(np.isfinite(loss) for loss in losses.values())


def test_the_shipped_postfilter_is_what_the_tool_makes() -> None:
    tool = runpy.run_path(str(TOOLS / "postfilter.py"))
    assert tool["graph"]() == postfilter.packaged(postfilter.GRAPH_FILE)
    assert tool["products"]() == postfilter.packaged(postfilter.PRODUCTS_FILE)
    modes = postfilter.modes()
    numbers = np.frombuffer(tool["pack"](modes), np.int8).reshape(len(modes), -1)
    np.testing.assert_array_equal(np.ldexp(numbers[:, 1:], -numbers[:, :1].astype(int)).reshape(modes.shape), modes)


def test_modes_are_sought_where_pictures_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pictures whose own filters are made of three, the first four modes take what can be taken."""
    tool = runpy.run_path(str(TOOLS / "postfilter.py"))
    monkeypatch.setitem(tool["sought"].__globals__, "STEPS", 3)
    random = torch.Generator().manual_seed(0)
    roots = torch.randn(40, 30, 60, generator=random).double()
    products = roots @ roots.mT / 60
    three = torch.randn(3, 3, 30, generator=random).double()
    own = torch.einsum("pk,kci->pci", torch.randn(40, 3, generator=random).double(), three)
    cross = own @ products
    share = 0.2 / (own * cross).sum(dim=(1, 2))  # a fifth of each error
    products, cross = products * share[:, None, None], cross * share[:, None, None]
    left = tool["left_db"](tool["sought"](products, cross).float(), products.float(), cross.float())
    assert float(left[0]) < 0.95 * 10 * np.log10(0.8)


def test_samples_are_judged_beside_real_images() -> None:
    from calotype import datasets

    tool = runpy.run_path(str(TOOLS / "samples.py"))
    data = datasets.load("digits")
    judge = tool["Judge"].of(data.train)
    assert judge.accuracy(data.test) > 0.85
    flat = np.full_like(data.test.images, 128)
    (_, *real), (_, *blank) = judge.row("real", data.test.images), judge.row("blank", flat)
    sharp, sure, distance = (tuple(map(float, pair)) for pair in zip(real, blank, strict=True))
    assert sharp[0] > sharp[1] == 0
    assert sure[0] > sure[1]
    assert distance[0] < 0.2 * distance[1]


def test_the_distance_of_gaussians_is_exact(rng: np.random.Generator) -> None:
    frechet = runpy.run_path(str(TOOLS / "samples.py"))["frechet"]
    a = rng.normal(0, 1, (200_000, 2))
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a * [2, 3] + [1, 0]) == pytest.approx(1 + 1 + 4, rel=0.05)


def test_soak_tells_growth_from_noise(small_photo: Image.Image) -> None:
    soak = runpy.run_path(str(TOOLS / "soak.py"))
    rng = np.random.default_rng(0)
    count = range(1000, 20_001, 100)
    noise = rng.normal(0, 300_000, len(count))
    flat = [(n, int(2e8 + e)) for n, e in zip(count, noise, strict=True)]
    growing = [(n, int(held + 2000 * n)) for n, held in flat]
    assert abs(soak["slope"](flat)) < soak["MOST_BYTES_A_PICTURE"] / 2
    assert soak["slope"](growing) > soak["MOST_BYTES_A_PICTURE"]
    for number in (4, 9):  # learned and lossless, each damaged afterwards
        soak["once"](soak["crop"]([small_photo.resize((240, 240))], rng), number, rng)


def test_draws_of_the_prior_are_what_the_decoder_makes_of_them(tmp_path: Path) -> None:
    import torch

    from calotype import datasets, library
    from calotype.learn.textbook import config, export, nets
    from calotype.textbook.model import Model, bundle_of

    plan = replace(config.usual("conv-vae"), architecture=config.Architecture("conv-vae", 6, 16, (8, 8, 1)))
    net, images = nets.model_of(plan.architecture, plan.recipe), np.array(datasets.load("digits").train.images[:200])
    export.export(net, plan, images, images, tmp_path / "m.calomodel")
    tool = runpy.run_path(str(TOOLS / "samples.py"))
    made = tool["from_prior"](Model(bundle_of(library.find_any(tmp_path / "m.calomodel"))), 20)
    z = torch.from_numpy(np.random.default_rng(tool["SEED"]).standard_normal((20, 6))).float()
    with torch.no_grad():
        wanted = net.decoder(z)[:, 0].numpy() * 255
    assert np.abs(made[..., 0] - wanted).max() < 2


def test_mix_makes_means_and_moves_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mix = runpy.run_path(str(TOOLS / "mix.py"))
    start, *runs = ({"a": torch.tensor([v])} for v in (0.0, 2.0, 6.0))
    assert mix["mean"](runs, start, 0.75)["a"].item() == 3
    new, first, head = ({"a": torch.tensor([v])} for v in (10.0, 2.0, 6.0))
    assert mix["moved"](new, first, head)["a"].item() == 14
    kept, out = next((ROOT / "checkpoints").glob("photo-*.pt")), tmp_path / "mean.pt"
    monkeypatch.setattr(sys, "argv", ["mix.py", "mean", str(kept), "--start", "photo", "--out", str(out)])
    mix["main"]()
    assert set(load_weights(out)) == set(codec_of(library.find("photo")).state_dict())


def test_runaway_finds_and_keeps_crops(
    tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo.save(tmp_path / "a.png")
    found = tmp_path / "found"
    command = ["runaway.py", str(tmp_path / "a.png"), "--crops", "8", "--limit", "0.01", "--out", str(found)]
    monkeypatch.setattr(sys, "argv", command)
    runaway = runpy.run_path(str(TOOLS / "runaway.py"))
    runaway["main"]()
    assert "8 of 8 lie beyond 0.01" in capsys.readouterr().out
    assert {np.asarray(Image.open(path).convert("RGB")).shape for path in found.iterdir()} == {(256, 256, 3)}
    monkeypatch.setattr(sys, "argv", ["runaway.py", str(tmp_path / "a.png"), "--middle", "--levels", "2"])
    runaway["main"]()
    assert "0 of 2 lie beyond 0.95" in capsys.readouterr().out


def test_rates_compares_efforts_with_each_other_and_what_was_published(
    tmp_path: Path, small_photo: Image.Image
) -> None:
    small_photo.crop((0, 0, 96, 64)).save(tmp_path / "a.png")
    points = [{"psnr": 20 + 5 * i, "bpp": 0.1 * 2**i} for i in range(6)]
    (tmp_path / "webp.json").write_text(json.dumps({"name": "WebP", "points": points}))
    command = [sys.executable, str(TOOLS / "rates.py"), str(tmp_path / "a.png"), "--reference", str(tmp_path)]
    options = ["--efforts", "1", "2", "--processes", "1"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    first, second = done.stdout.splitlines()
    assert first.startswith("effort 1  WebP ")
    assert second.startswith("effort 2  WebP ")
    assert "%  effort 1 +0.00%" in second  # they do the same
