"""Textbook models: data sets, training, export, and the commands around them."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from calotype import bundle, cli, datasets, library
from calotype.bench import metrics, small
from calotype.errors import CalotypeError, InputError, OptionError
from calotype.learn import checkpoint
from calotype.learn.plan import write
from calotype.learn.textbook import config, export, fit, nets
from calotype.learn.textbook.config import ARCHS, CONV_VAE, DENSE_AE, DENSE_VAE, VAE_GAN, Architecture, Recipe
from calotype.learn.textbook.loop import Row, Run, epochs, evaluate
from calotype.learn.textbook.prepare import augmented
from calotype.textbook.model import Model, bundle_of
from conftest import psnr_db

IMAGE = (8, 8, 1)
TRAINED = [arch for arch in ARCHS if arch != "pca"]
QUICK = Recipe(epochs=3, batch=64, warmup=1)


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    return datasets.load("digits")


@pytest.fixture(scope="module")
def train(data: datasets.Dataset) -> torch.Tensor:
    return torch.from_numpy(np.array(data.train.images[:512]))


@pytest.fixture(scope="module")
def validation(data: datasets.Dataset) -> torch.Tensor:
    return torch.from_numpy(np.array(data.validation.images))


def _run(arch: str, recipe: Recipe, train: torch.Tensor, validation: torch.Tensor) -> Run:
    return Run(nets.model_of(Architecture(arch, 16, 64, IMAGE), recipe), recipe, train, validation)


# --- data sets ------------------------------------------------------------------------------------------------------


def test_digits_come_in_three_parts_that_share_none(data: datasets.Dataset) -> None:
    parts = [data.train, data.validation, data.test]
    assert sum(map(len, parts)) == 1797
    assert all(p.images.shape[1:] == IMAGE and len(p.labels) == len(p) for p in parts)
    assert data.train.images.max() == 255
    assert np.array_equal(data.test.images, datasets.load_test("digits").images)


def test_every_image_is_judged_in_one_fold(data: datasets.Dataset) -> None:
    parts = list(datasets.folds(data, 3))
    judged = np.concatenate([part.validation.images for part in parts])
    learned = len(data.train) + len(data.validation)
    assert len(judged) == learned
    whole = np.concatenate([data.train.images, data.validation.images])
    assert np.array_equal(np.sort(judged.reshape(learned, -1), 0), np.sort(whole.reshape(learned, -1), 0))
    assert all(len(part.train) + len(part.validation) == learned for part in parts)
    assert all(part.test is data.test for part in parts)
    with pytest.raises(OptionError, match="1438 images"):
        next(datasets.folds(data, 2000))


def _idx(values: np.ndarray) -> bytes:
    return struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def mnist(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A small set in the files of MNIST."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part, count in (("train", 48), ("t10k", 12)):
        values = rng.integers(0, 256, (count, 28, 28), np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(_idx(values)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(_idx(values[:, 0, 0]))
    return tmp_path


def test_idx_files_at_hand(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = datasets.load("mnist", mnist)
    assert [len(p) for p in (whole.train, whole.validation, whole.test)] == [44, 4, 12]
    assert np.array_equal(whole.test.labels, whole.test.images[:, 0, 0, 0])
    monkeypatch.setenv("CALOTYPE_DATA", str(mnist / "mnist"))
    assert np.array_equal(datasets.load_test("mnist").images, whole.test.images)
    with pytest.raises(InputError, match="no train-images"):
        datasets.load("mnist", mnist / "nowhere")
    with pytest.raises(OptionError, match="resizing"):
        datasets.load("mnist", mnist, size_px=8)
    with pytest.raises(OptionError, match="goes with mnist"):
        datasets.load("digits", mnist)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\0\x08\x03\0\0",
        b"not an idx file at all",
        struct.pack(">4I", 0x0803, 1 << 31, 1 << 31, 28) + b"\0" * 10,
        struct.pack(">4I", 0x0803, 2, 28, 28) + b"\0" * 10,
        gzip.compress(b"\0" * 100, mtime=0)[:-9],
    ],
)
def test_what_is_no_idx_file_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / ("x.gz" if raw.startswith(b"\x1f") else "x")
    path.write_bytes(raw)
    with pytest.raises(InputError, match="x"):
        datasets.read_idx(path)


def test_what_a_file_does_not_declare_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x0803, 1, 28, 28) + bytes(50_000_000), 1))
    tracemalloc.start()
    with pytest.raises(InputError, match="more values"):
        datasets.read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_files_of_another_set_are_refused(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="is of mnist, not of fashion-mnist"):
        datasets.load("fashion-mnist", mnist / "mnist")
    (mnist / "mnist").rename(mnist / "pictures")
    assert len(datasets.load_test("fashion-mnist", mnist / "pictures")) == 12
    file = "t10k-images-idx3-ubyte.gz"
    found = hashlib.sha256((mnist / "pictures" / file).read_bytes()).hexdigest()
    monkeypatch.setitem(datasets._REMOTE["mnist"].sha256, file, found)
    with pytest.raises(InputError, match="is of mnist, not of fashion-mnist"):
        datasets.load_test("fashion-mnist", mnist / "pictures")


def test_a_download_of_another_hash_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def retrieve(*_: object) -> str:
        raise ValueError("SHA256 hash of downloaded file does not match")

    monkeypatch.delenv("CALOTYPE_DATA", raising=False)
    monkeypatch.setattr("pooch.retrieve", retrieve)
    with pytest.raises(InputError, match="hash"):
        datasets.load_test("mnist")


def test_the_real_mnist(shared: Path) -> None:
    test = datasets.load_test("mnist", shared / "data")
    assert test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_a_folder_is_a_data_set(tmp_path: Path, data: datasets.Dataset) -> None:
    with pytest.raises(InputError, match="no such folder"):
        datasets.load(tmp_path / "nowhere")
    for i, image in enumerate(data.test.images[:30, :, :, 0]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    found = datasets.load(tmp_path)
    assert [len(p) for p in (found.train, found.validation, found.test)] == [22, 2, 6]
    assert found.test.images.shape[1:] == IMAGE
    Image.fromarray(data.test.images[0, :7, :, 0]).save(tmp_path / "odd.png")
    with pytest.raises(InputError, match="--resize"):
        datasets.load(tmp_path)
    assert datasets.load(tmp_path, size_px=12).train.images.shape[1:] == (12, 12, 1)
    Image.new("RGB", (8, 8)).save(tmp_path / "odd.png")
    assert datasets.load(tmp_path).train.images.shape[1:] == (8, 8, 3)
    (tmp_path / "odd.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="odd"):
        datasets.load(tmp_path)


def _pictures(folder: Path, picture: Image.Image) -> Path:
    for i in range(30):
        picture.save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("mode", ["I;16", "LA", "RGBA"])
def test_pictures_that_would_change_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(InputError, match=f"mode {mode}"):
        datasets.load(_pictures(tmp_path, Image.new(mode, (8, 8))))


def test_palettes_are_resized_as_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(2, 1) // 85 * 85)
    wanted = np.asarray(picture.convert("RGB").resize((9, 9), Image.Resampling.LANCZOS))
    found = datasets.load(_pictures(tmp_path, picture.convert("P")), size_px=9)
    assert np.array_equal(found.train.images[0], wanted)


# --- configs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "recipe"),
        ('{"other": 1}', "nothing else"),
        ('{"recipe": {"beat": 1}}', "beat"),
        ('{"recipe": {"beta": -1}}', "beta"),
        ('{"recipe": {"beta": "much"}}', "beta"),
        ('{"recipe": {"rate": NaN}}', "rate"),
        ('{"recipe": {"loss": "sharp"}}', "mse, bce"),
        ('{"architecture": {"latents": 0}}', "latents"),
        ('{"architecture": {"latents": 257}}', "latents"),
        ('{"architecture": {"arch": "gan"}}', "conv-vae"),
        ('{"architecture": {"image": 5}}', "list of sizes"),
        ('{"architecture": {"image": [8, 8, true]}}', "list of sizes"),
        ('{"architecture": {"image": [8, 8]}}', "height, width and channels"),
        ('{"recipe": {"augment": "flip"}}', "none, shift, rotate, both"),
        ('{"recipe": {"normalise": 1}}', "true nor false"),
        ('{"recipe": []}', "objects"),
        ('{"card": 5}', "objects"),
        ('{"recipe": {"sigma": 0}}', "sigma"),
        ('{"card": {"name": 5}}', "name"),
        ('{"card": {"status": "final"}}', "preview, stable"),
        ('{"card": {"data": ["x"]}}', "name and licence"),
        ('{"card": {"data": [{"name": "x"}]}}', "name and licence"),
    ],
)
def test_bad_recipes_are_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(OptionError, match=said):
        config.read(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"architecture": {"image": [9, 9, 1]}}, "leave it out"),
        ({"architecture": {"arch": "pca"}}, "leave it out"),
        ({"recipe": {"epochs": 0}}, "would not end"),
    ],
)
def test_a_plan_is_for_its_data(tmp_path: Path, data: datasets.Dataset, content: dict[str, object], said: str) -> None:
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(OptionError, match=said):
        fit.plan_of(DENSE_AE, tmp_path / "r.json", data, "x", {})


def test_a_run_goes_on_with_the_same_images_only(tmp_path: Path, data: datasets.Dataset) -> None:
    plan = fit.plan_of("pca", None, data, "x", {})
    assert fit.fit(plan, data, tmp_path, None, lambda _: None)
    assert fit.fit(plan, data, tmp_path, None, lambda _: None)
    turned = replace(data, train=replace(data.train, images=data.train.images[:, ::-1]))
    with pytest.raises(OptionError, match="other images"):
        fit.fit(fit.plan_of("pca", None, turned, "x", {}), turned, tmp_path, None, lambda _: None)


def test_a_config_comes_back_from_its_file(tmp_path: Path) -> None:
    whole = replace(config.usual(DENSE_VAE), recipe=Recipe(likelihood="logistic", minutes=2.5, target_loss=-1.0))
    write(whole, tmp_path / "config.json")
    assert config.read(tmp_path / "config.json") == whole


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", TRAINED)
def test_families_learn(arch: str, train: torch.Tensor, validation: torch.Tensor, tmp_path: Path) -> None:
    run = _run(arch, replace(QUICK, epochs=8), train, validation)
    before = evaluate(run.net, validation, 1)
    rows = list(epochs(run, tmp_path / "checkpoint.pt"))
    assert [row.epoch for row in rows] == [*range(1, 9)]
    assert rows[-1].progress == 1
    assert run.best_loss < before


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "bce"},
        {"likelihood": "bernoulli"},
        {"likelihood": "logistic"},
        {"optimiser": "sgd", "rate": 0.1, "schedule": "plateau"},
        {"free_bits": 0.1, "beta": 2.0},
        {"augment": "both"},
    ],
)
def test_recipes_learn(
    changes: dict[str, object], train: torch.Tensor, validation: torch.Tensor, tmp_path: Path
) -> None:
    arch = DENSE_AE if {"loss", "optimiser"} & set(changes) else DENSE_VAE
    run = _run(arch, config.changed(QUICK, changes, "test"), train, validation)
    before = evaluate(run.net, validation, 1)
    assert len(list(epochs(run, tmp_path / "checkpoint.pt"))) == 3
    assert run.best_loss < before


def test_the_logistic_likelihood_is_a_distribution() -> None:
    values = torch.arange(256)[:, None] / 255
    cost = nets._logistic_cost(torch.full_like(values, 0.3), values, torch.tensor(-2.0))
    assert float(torch.exp(-cost).sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("x", [0.0, 0.5, 1.0])
def test_the_logistic_likelihood_has_a_gradient_in_both_tails(x: float) -> None:
    """Far off, another unit of error costs 1 / scale nats."""
    scale, costs = 0.005, []
    for mean in (x - 0.6, x + 0.6):
        value = torch.tensor([mean], requires_grad=True)
        cost = nets._logistic_cost(value, torch.tensor([x]), torch.tensor(scale).log())
        cost.sum().backward()
        costs.append(float(cost.detach()))
        outwards = (x == 0.0 and mean < x) or (x == 1.0 and mean > x)
        assert value.grad is not None
        assert float(value.grad) == pytest.approx(0 if outwards else (1 if mean > x else -1) / scale, abs=1e-2)
    if x == 0.5:
        assert costs[0] == pytest.approx(costs[1], rel=1e-4)


def test_the_rate_is_the_divergence_of_gaussians() -> None:
    net = nets.Vae(Architecture(DENSE_VAE, 2, 8, IMAGE), Recipe())
    mean, log_variance = torch.tensor([[0.5, -1.0]]), torch.tensor([[-1.0, 0.3]])
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    wanted = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum()
    assert float(net._rate(mean, log_variance)) == pytest.approx(float(wanted), rel=1e-5)


def test_a_step_of_the_critic_and_one_of_the_decoder_keep_apart(train: torch.Tensor) -> None:
    """What the decoder is told leaves the critic as it is, and what the critic learns leaves the decoder."""
    net = nets.VaeGan(Architecture(VAE_GAN, 4, 16, IMAGE), Recipe())
    x = nets.to_unit(train[:8])
    made = net.decoder(torch.randn(8, 4))
    net.critic.frozen(made).score.sum().backward()
    assert all(p.grad is None for p in net.critic.parameters())
    assert all(p.grad is not None for p in net.decoder.parameters())
    net.zero_grad()
    (net.critic(x).score - net.critic(made.detach()).score).sum().backward()
    assert any(p.grad is not None for p in net.critic.parameters())
    assert all(p.grad is None for p in net.decoder.parameters())


def test_a_gan_is_judged_as_a_vae_and_keeps_its_last_weights(
    train: torch.Tensor, validation: torch.Tensor, tmp_path: Path
) -> None:
    gan, vae = (_run(arch, replace(QUICK, rate=0.0), train, validation) for arch in (VAE_GAN, CONV_VAE))
    assert evaluate(gan.net, validation, 1) == pytest.approx(evaluate(vae.net, validation, 1))
    rows = list(epochs(gan, tmp_path / "checkpoint.pt"))
    assert gan.best_epoch == rows[-1].epoch == 3


def test_augmented_images_are_moved(train: torch.Tensor) -> None:
    images = train[:64]
    assert augmented(images, "none") is images
    torch.manual_seed(0)
    moved = augmented(images, "shift")
    padded = torch.nn.functional.pad(images[..., 0].float(), (1, 1, 1, 1), "replicate").byte()
    shifts = [padded[:, top : top + 8, left : left + 8] for top in range(3) for left in range(3)]
    found = torch.stack([(shifted == moved[..., 0]).flatten(1).all(1) for shifted in shifts])
    assert found.any(0).all()
    assert found.any(1).all()
    turned = augmented(images, "rotate")
    change = (turned.float() - images.float()).abs().mean()
    assert 1 < change < 40
    assert augmented(images.expand(-1, -1, -1, 3), "both").shape == (64, 8, 8, 3)


def test_a_normalised_encoder_sees_standardised_pixels(data: datasets.Dataset, tmp_path: Path) -> None:
    plan = fit.plan_of(DENSE_AE, None, data, "x", {"normalise": True, "epochs": 1})
    assert fit.fit(plan, data, tmp_path, None, lambda _: None)
    net = nets.model_of(plan.architecture, plan.recipe)
    net.load_state_dict(checkpoint.load(tmp_path / "checkpoint.pt")["best"])
    seen = net.encoder[0](nets.to_unit(torch.from_numpy(np.array(data.train.images))))
    assert float(seen.mean()) == pytest.approx(0, abs=1e-5)
    assert float(seen.std()) == pytest.approx(1, abs=1e-4)
    fit.to_bundle(tmp_path, data, tmp_path / "m.calomodel")
    model = Model(bundle_of(library.find_any(tmp_path / "m.calomodel")))
    with torch.no_grad():
        wanted = net(nets.to_unit(torch.from_numpy(np.array(data.test.images)))).numpy()[:, 0] * 255
    assert np.abs(model.synthesise(model.analyse(data.test.images))[..., 0] - wanted).max() < 2.5


def test_a_run_resumes_bit_for_bit(train: torch.Tensor, validation: torch.Tensor, tmp_path: Path) -> None:
    recipe = replace(QUICK, schedule="plateau")
    straight = _run(DENSE_VAE, recipe, train, validation)
    rows = [replace(row, seconds=0) for row in epochs(straight, tmp_path / "a.pt")]
    broken = _run(DENSE_VAE, recipe, train, validation)
    first = list(epochs(broken, tmp_path / "b.pt", lambda: broken.step == 11))
    torch.rand(3)
    resumed = _run(DENSE_VAE, recipe, train, validation)
    resumed.load(checkpoint.load(tmp_path / "b.pt"))
    assert resumed.step == 11
    assert [replace(row, seconds=0) for row in [*first, *epochs(resumed, tmp_path / "b.pt")]] == rows
    for a, b in zip(straight.net.parameters(), resumed.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_ends_at_its_target_its_minutes_or_when_stuck(
    train: torch.Tensor, validation: torch.Tensor, tmp_path: Path
) -> None:
    def length(**changes: object) -> int:
        run = _run(DENSE_AE, replace(QUICK, epochs=60, **changes), train, validation)
        rows: list[Row] = list(epochs(run, tmp_path / "checkpoint.pt"))
        assert run.finished
        return rows[-1].epoch

    assert length(target_loss=10.0) == 1
    assert length(minutes=1e-4) <= 1
    assert length(schedule="plateau", patience=1, rate=0.0) == 6
    with pytest.raises(CalotypeError, match="rate"):
        length(rate=1e30, optimiser="sgd")


def test_a_plateau_keeps_the_rate_while_a_negative_loss_falls(train: torch.Tensor, validation: torch.Tensor) -> None:
    run = _run(DENSE_AE, replace(QUICK, schedule="plateau", patience=1), train, validation)
    for i in range(8):
        run.plateau.step(-1000 - i * 1e-3)
    assert run._rate == QUICK.rate


def test_a_finished_run_adds_no_row_and_goes_on_with_more_minutes(
    train: torch.Tensor, validation: torch.Tensor, tmp_path: Path
) -> None:
    recipe, path = replace(QUICK, epochs=0, minutes=1e9), tmp_path / "checkpoint.pt"
    run = _run(DENSE_AE, recipe, train, validation)
    assert not list(epochs(run, path, lambda: run.step == 3))
    run = _run(DENSE_AE, replace(recipe, minutes=1e-9), train, validation)
    run.load(checkpoint.load(path))
    (row,) = epochs(run, path)
    assert row.loss == pytest.approx(run.loss_sum / 3)
    assert run.best_loss == row.validation
    assert not list(epochs(run, path))
    longer = _run(DENSE_AE, recipe, train, validation)
    longer.load(checkpoint.load(path))
    (row,) = epochs(longer, path, lambda: longer.step == 8)
    assert 0 < row.loss < 1.5 * run.loss_sum / 3


def test_pca_has_the_squared_error_as_its_loss(validation: torch.Tensor) -> None:
    net = nets.model_of(Architecture("pca", 4, 1, IMAGE), Recipe(loss="bce"))
    x = nets.to_unit(validation)
    with torch.no_grad():
        assert float(net.loss(validation)) == pytest.approx(float((net(x) - x).square().mean()))


def test_conv_needs_sides_that_fit() -> None:
    with pytest.raises(OptionError, match="multiples of 4"):
        nets.model_of(Architecture("conv-ae", 4, 16, (9, 8, 1)), Recipe())


# --- export ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_a_bundle_computes_what_the_model_does(arch: str, data: datasets.Dataset, tmp_path: Path) -> None:
    plan = replace(config.usual(arch), architecture=Architecture(arch, 12, 32, IMAGE))
    net, images = nets.model_of(plan.architecture, plan.recipe), np.array(data.train.images[:256])
    if isinstance(net, nets.Pca):
        net.solve(torch.from_numpy(images))
    export.export(net, plan, images, images, tmp_path / "m.calomodel")
    model = Model(bundle_of(library.find_any(tmp_path / "m.calomodel")))
    with torch.no_grad():
        wanted = net(nets.to_unit(torch.from_numpy(images))).permute(0, 2, 3, 1).numpy() * 255
    y = model.analyse(images)
    assert np.abs(model.synthesise(y).astype(float) - wanted.clip(0, 255)).max() < 2.5  # weights are stored in float16
    assert y.std(0).max() == pytest.approx(export.STD_BINS, rel=0.01)
    active = y[:, y.std(0) > 0.5].T
    assert np.abs(np.corrcoef(active) - np.eye(len(active))).max() < 0.05


def test_the_metric_is_the_mean_of_jacobians(data: datasets.Dataset) -> None:
    net, images = nets.model_of(Architecture(DENSE_AE, 3, 16, IMAGE), Recipe()), np.array(data.train.images[:40])
    torch.manual_seed(0)
    estimated = export._metric(net, np.concatenate([images] * 50))
    z = net.encode(nets.to_unit(torch.from_numpy(images))).detach()
    jacobians = [torch.autograd.functional.jacobian(lambda v: net.decoder(v[None]).flatten(), one) for one in z]
    exact = torch.stack([j.T @ j for j in jacobians]).mean(0).numpy()
    assert np.abs(estimated - exact).max() < 0.05 * np.abs(exact).max()


def test_tables_give_every_bin_a_chance(rng: np.random.Generator) -> None:
    for values in (rng.normal(0, 20, 1000), np.zeros(10), rng.normal(0, 0.01, 50), np.full(5, 1e9)):
        q = export.table(values)
        assert q.min() >= 1
        assert q.sum(dtype=np.int64) == 1 << 24


# --- commands -------------------------------------------------------------------------------------------------------


def _main(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Exit status of the command line."""
    monkeypatch.setattr(sys, "argv", ["calotype", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_from_data_to_files_and_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train, go on with other options, train on from it, draw samples."""
    (tmp_path / "r.json").write_text(json.dumps({"recipe": {"epochs": 12}, "architecture": {"latents": 16}}))
    out = tmp_path / "small.calomodel"
    command = ("train", "digits", "--arch", "dense-vae", "--recipe", tmp_path / "r.json", "-o", out)
    first = subprocess.run([sys.executable, "-m", "calotype", *map(str, command)], capture_output=True, timeout=300)
    assert first.returncode == 0, first.stderr
    made = bundle_of(bundle.read_file(out))
    assert made.latents == 16
    assert made.card["epochs_trained"] > 0
    card = out.with_suffix(".md").read_text()
    assert made.id.hex() in card
    assert "digits (CC BY 4.0)" in card
    assert len((tmp_path / "small.run" / "log.jsonl").read_text().splitlines()) == 12
    assert _main(monkeypatch, *command, "--seed", 7) == 2
    assert "another recipe" in capsys.readouterr().err
    again = tmp_path / "again.calomodel"
    assert _main(monkeypatch, *command[:-1], again, "--from", out, "--minutes", 0.001) == 0
    started, cold = (bundle_of(bundle.read_file(path)).card["validation_loss"] for path in (again, out))
    assert started < 1.2 * cold
    assert _main(monkeypatch, "sample", out, "-n", 10, "-o", tmp_path / "grid.png") == 0
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (32, 24)


@pytest.mark.parametrize("arch", ["pca", "lossless-vae"])
def test_cross_validation_shows_each_fold(
    arch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.calomodel"
    assert _main(monkeypatch, "train", "digits", "--arch", arch, "--minutes", "0.002", "--folds", "2", "-o", out) == 0
    shown = capsys.readouterr().out
    first, second, mean, _ = (float(line.split("|")[2]) for line in shown.splitlines()[2:6])
    assert mean == pytest.approx((first + second) / 2, rel=1e-5)
    card = bundle.read_file(out).card
    assert card["folds"].startswith("2: validation loss ")
    assert "folds" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "digits", "--folds", "3", "-o", "x.calomodel"), "--folds has no effect"),
        (("train", "digits", "--arch", "gan", "-o", "x.calomodel"), "none of photo"),
        (("train", "digits", "--arch", "dense-ae", "--steps", "3", "-o", "x.calomodel"), "--steps has no effect"),
        (("train", "digits", "digits", "--arch", "dense-ae", "-o", "x.calomodel"), "one data set"),
        (("train", "digits", "--arch", "pca", "--from", "x", "-o", "x.calomodel"), "--from has no effect"),
        (("bench", "digits", "more", "-o", "x"), "nothing beside"),
        (("bench", "digits", "--quick", "-o", "x"), "--quick has no effect"),
        (("bench", "digits", "--codecs", "png", "-o", "x"), "--codecs has no effect"),
        (("sample", "photo", "-o", "x.png"), "kind 'photo'"),
        (("sample", "photo", "-o", "x.txt"), "ends in"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _main(monkeypatch, *words) in (1, 2)
    assert said in capsys.readouterr().err


# --- the benchmark --------------------------------------------------------------------------------------------------


def test_ssim_of_images_is_that_of_each(rng: np.random.Generator) -> None:
    a = rng.integers(0, 256, (5, 14, 17, 3), np.uint8)
    b = np.clip(a.astype(int) + rng.integers(-40, 40, a.shape), 0, 255).astype(np.uint8)
    each = [metrics.ssim(x, y) for x, y in zip(a, b, strict=True)]
    assert metrics.ssim_of_images(a, b) == pytest.approx(np.mean(each), abs=1e-4)
    with pytest.raises(metrics.TooSmall):
        metrics.ssim_of_images(a[:, :10], b[:, :10])


def test_rows_say_what_it_cost(data: datasets.Dataset) -> None:
    images = data.test.images[:50]
    for codec, measure in ((small.LOSSY[0], small.mosaic_row), (small.LOSSLESS[0], small.single_row)):
        made = measure(codec, 75, images)
        assert made.bpd == pytest.approx(made.image_bytes * 8 / 64)
        assert (made.psnr_db is None) == codec.lossless
    mosaic = small.mosaic_of(images)
    assert np.array_equal(small.images_of(mosaic, images), images)
    back = (images // 16) * 16
    shown = small.row("x", "", images, 1000, back, model_bytes=500)
    assert shown.psnr_db == pytest.approx(psnr_db(images, back), abs=1e-3)
    assert (shown.image_bytes, shown.image_bytes_with_model) == (20, 30)


def test_bytes_at_a_psnr_lie_between_the_rows() -> None:
    def at(size: float, db: float) -> small.Row:
        return small.Row("x", "", 1, size, 1, db, None, 0, size)

    rows = [at(10, 20), at(40, 22), at(100, 26)]
    assert small.bytes_at(rows, 21) == pytest.approx(20)
    assert small.bytes_at(rows, 25) is None  # in a gap too wide
