"""Looking into models of small images: their latents, what these cost, and what they are good for."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from calotype import bundle, cli, datasets, library
from calotype.bitsback import chunk
from calotype.bitsback.model import HALF, RING
from calotype.bitsback.model import Model as BitsBackModel
from calotype.datasets import Dataset, Split
from calotype.errors import InputError
from calotype.explore import measures, plots, sheets
from calotype.explore.study import BitsBackStudy, TextbookStudy, study_of
from calotype.learn.bitsback.export import members
from calotype.learn.bitsback.nets import Architecture, LatentModel
from calotype.learn.textbook import config, export, nets
from calotype.learn.textbook.config import Recipe
from calotype.learn.textbook.loop import Run, epochs
from calotype.learn.textbook.prepare import noisy
from calotype.small import small_model

IMAGE = (8, 8, 1)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.load("digits")


def _trained(arch: str, recipe: Recipe, data: Dataset, out: Path) -> tuple[Path, nets.Autoencoder | nets.Vae]:
    """A model after some epochs, and its bundle."""
    plan = replace(config.usual(arch), recipe=recipe)
    plan = replace(plan, architecture=config.Architecture(arch, 12, 64, IMAGE))
    train, validation = (np.array(part.images) for part in (data.train, data.validation))
    net = nets.model_of(plan.architecture, recipe)
    assert list(epochs(Run(net, recipe, torch.from_numpy(train), torch.from_numpy(validation)), out.with_suffix(".pt")))
    export.export(net, plan, train, validation, out)
    return out, net


@pytest.fixture(scope="module")
def vae(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nets.Autoencoder | nets.Vae]:
    out = tmp_path_factory.mktemp("vae") / "vae.calomodel"
    return _trained("dense-vae", Recipe(epochs=8, batch=64), data, out)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bits-back model of two layers that has learned nothing."""
    torch.manual_seed(0)
    model = LatentModel(Architecture(image=IMAGE, latents=(3, 5), width=9, depth=2))
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    out = tmp_path_factory.mktemp("deep") / "deep.calomodel"
    bundle.write(out, members(model, {"name": "deep", "version": "1", "status": "preview"}))
    return out


def test_a_vae_gives_its_posterior(vae: tuple[Path, nets.Vae], data: Dataset) -> None:
    path, net = vae
    study = study_of(small_model(library.open_path(path)))
    images = data.test.images[:7]
    with torch.no_grad():
        wanted = torch.cat(net.posterior(nets.to_unit(torch.from_numpy(np.array(images)))), 1)
    found = study.posterior(images)
    assert found is not None
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-2)  # weights are stored in float16
    rates, bits = study.rates(images), study.bits(images, 0)
    assert rates is not None
    assert bits is not None
    np.testing.assert_allclose(rates.bits, bits.latents.mean(0), rtol=1e-5)
    assert rates.active.any()


def test_the_bits_of_a_vae_are_its_loss(vae: tuple[Path, nets.Vae], data: Dataset) -> None:
    path, net = vae
    bits = study_of(small_model(library.open_path(path))).bits(data.test.images, 0)
    assert bits is not None
    with torch.no_grad():
        loss = float(net.loss(torch.from_numpy(np.array(data.test.images))))
    assert float(bits.total.mean()) * np.log(2) == pytest.approx(loss, rel=0.05)


def test_what_is_no_vae_has_no_posterior(data: Dataset, tmp_path: Path) -> None:
    path, _ = _trained("dense-ae", Recipe(epochs=1, batch=256), data, tmp_path / "ae.calomodel")
    study = study_of(small_model(library.open_path(path)))
    assert isinstance(study, TextbookStudy)
    assert not study.is_vae
    assert study.posterior(data.test.images[:2]) is study.bits(data.test.images[:2], 0) is None
    assert [a.score for a in measures.anomalies(study, data.test.images[:9], data.train.images[:9])] == [
        "squared error",
        "bytes by deflate",
    ]


def test_bits_back_study_and_coder_agree(deep: Path, rng: np.random.Generator) -> None:
    model = small_model(library.open_path(deep))
    assert isinstance(model, BitsBackModel)
    study = BitsBackStudy(model)
    images = rng.integers(0, 256, (40, *IMAGE), np.uint8)
    zs: list[np.ndarray] = []
    for _ in model.form.latents:
        zs.append(model.posterior(model.to_x(images[3]), zs).mode)
    np.testing.assert_array_equal(study.analyse(images)[3], np.concatenate(zs))
    assert study.restore(images).shape == study.sample(40, 0).shape == images.shape
    spent = 8 * (len(chunk.encode(model, images)) - chunk.CHECKSUM_BYTES)
    assert study.bits(images, 0).total.sum() == pytest.approx(spent, rel=0.03)


def test_draws_follow_their_table(deep: Path) -> None:
    study = study_of(small_model(library.open_path(deep)))
    assert isinstance(study, BitsBackStudy)
    layer = study.batched.prior([], 4000)
    z = layer.draw(np.random.default_rng(0))
    table = layer.family.frequencies[study.bundle.form.prior_scale] / 2**24
    assert abs(z.mean()) < 1
    assert z.var() == pytest.approx(table @ np.square(np.arange(RING) - HALF), rel=0.05)
    entropy = -(table * np.log2(table)).sum()
    assert layer.bits(z).mean() == pytest.approx(entropy, rel=0.01)


def test_images_of_another_size_are_refused(deep: Path) -> None:
    with pytest.raises(InputError, match="28x28x1"):
        study_of(small_model(library.open_path(deep))).check(np.zeros((2, 28, 28, 1), np.uint8), "mnist")


def test_nearest_is_nearest(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "NEIGHBOUR_BLOCK", 7)
    among, images = (rng.integers(0, 256, (n, 3, 4, 1), np.uint8) for n in (20, 5))
    each = [among[np.square(among.astype(float) - image).sum((1, 2, 3)).argmin()] for image in images]
    np.testing.assert_array_equal(sheets.nearest(images, among), each)


def test_one_of_each_label_comes_first(data: Dataset) -> None:
    labels = np.array([1, 1, 0, 2, 0, 2], np.uint8)
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    assert sheets.one_of_each(Split(images, labels), 5).ravel().tolist() == [2, 0, 3, 4, 1]


def test_a_sheet_shows_every_image(rng: np.random.Generator) -> None:
    rows = [rng.integers(0, 256, (3, 30, 30, 1), np.uint8) for _ in range(2)]
    whole = sheets.sheet(rows)
    step = 30 + sheets.GAP_PX
    assert whole.shape == (2 * step - sheets.GAP_PX, 3 * step - sheets.GAP_PX, 3)
    np.testing.assert_array_equal(whole[step:, 2 * step :, 1], rows[1][2][..., 0])


def test_auroc_is_how_often_the_strange_one_is_higher() -> None:
    usual, strange = np.array([1.0, 2.0, 3.0]), np.array([2.5, 9.0])
    assert measures.Anomaly("x", usual, strange).auroc == pytest.approx(5 / 6)


def test_noise_in_training_denoises(data: Dataset, tmp_path: Path) -> None:
    clean, errors = data.test.images, []
    for sigma in (0.0, 0.6):
        recipe = Recipe(epochs=50, batch=64, rate=5e-3, noise_sigma=sigma)
        path, _ = _trained("dense-ae", recipe, data, tmp_path / f"{sigma}.calomodel")
        back = study_of(small_model(library.open_path(path))).restore(measures.with_noise(clean, 100, 0))
        errors.append(np.square(back.astype(float) - clean).mean())
    assert errors[1] < 0.9 * errors[0]


def test_filters_are_chosen_by_what_they_gain(
    vae: tuple[Path, nets.Vae], data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "TUNED_ON", 10)
    study = study_of(small_model(library.open_path(vae[0])))
    assert isinstance(study, TextbookStudy)
    rows = list(measures.denoise(study, data.validation.images, data.test.images[:50]))
    found = {(row.sigma, row.method.split(",")[0]): row for row in rows}
    assert found[25, "as it is"].psnr_db > found[50, "as it is"].psnr_db
    assert found[25, "as it is"].gain_db == 0
    assert found[50, "median filter"].gain_db >= -0.1  # none at all is among those that it is chosen from
    assert found[50, "non-local means"].psnr_db > 14


def test_no_noise_leaves_images_alone() -> None:
    x = torch.rand(3, 1, 4, 4)
    assert noisy(x, 0.0) is x
    changed = noisy(x, 0.5)
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    assert not torch.equal(changed, x)


def _main(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["calotype", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_explore_a_vae(
    vae: tuple[Path, nets.Vae], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"epoch": 1, "loss": 2.0, "validation": 3.0}\n' * 3)
    out, run = tmp_path / "out", tmp_path / "run"
    assert _main(monkeypatch, "explore", vae[0], "digits", "-o", out, "--run", run, "--against", "digits") == 0
    printed = capsys.readouterr().out
    assert "posterior's means and widths" in printed
    assert "minus the ELBO" in printed
    page = (out / "index.html").read_text()
    names = {path.stem for path in out.glob("*.png")}
    assert names >= {"restored", "losses", "rate-distortion", "kl", "traversals", "samples", "scatter", "histograms"}
    assert page.count("data:image/png") == len(names)
    assert "was not trained with noise" in page
    with Image.open(out / "restored.png") as sheet:
        assert sheet.mode == "RGB"


def test_explore_a_bits_back_model(
    deep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _main(monkeypatch, "explore", deep, "digits", "-o", tmp_path / "out", "--probe-images", 200) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "codes without loss" in page
    assert "name its folder by --run" in page
    assert "learned from 200 training images" in page
    assert "linear, %" in capsys.readouterr().out


def test_explore_a_single_latent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, recipe = tmp_path / "one.calomodel", tmp_path / "one.json"
    recipe.write_text('{"architecture": {"latents": 1}}')
    assert _main(monkeypatch, "train", "digits", "--arch", "pca", "--recipe", recipe, "-o", model) == 0
    assert _main(monkeypatch, "explore", model, "digits", "-o", tmp_path / "out", "--probe-images", 100) == 0
    assert "there is only one" in (tmp_path / "out" / "index.html").read_text()


def test_a_cut_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"epoch": 1, "loss": 2.0, "validation": 3.0}\n{"epoch": 2, "lo')
    with pytest.raises(InputError, match="no log of a run"):
        plots.losses(tmp_path / "log.jsonl")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("photo", "digits", "-o", "x"), "kind 'photo'"),
        (("MODEL", "nowhere", "-o", "x"), "no such folder"),
        (("MODEL", "digits", "-o", "FILE"), "is a file"),
        (("MODEL", "digits", "-o", "x", "--run", "nowhere"), "no log.jsonl there"),
        (("MODEL", "digits", "-o", "x", "--data", "nowhere"), "goes with mnist"),
    ],
)
def test_explore_refuses(
    words: tuple[str, ...],
    said: str,
    deep: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    places = {"MODEL": str(deep), "FILE": "file"}
    assert _main(monkeypatch, "explore", *(places.get(word, word) for word in words)) in (1, 2)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_explore_a_few_pictures_in_colour(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer images than latents, so that some never move; no labels."""
    (tmp_path / "pictures").mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    model = tmp_path / "pca.calomodel"
    assert _main(monkeypatch, "train", tmp_path / "pictures", "--arch", "pca", "-o", model) == 0
    assert _main(monkeypatch, "explore", model, tmp_path / "pictures", "-o", tmp_path / "out") == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "the images have no labels" in page
    assert "no posterior" in page
    assert "page:" in capsys.readouterr().out
