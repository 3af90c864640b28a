from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import calotype
from calotype import bundle, container
from calotype.learn import train
from calotype.learn.calibrate import fit
from calotype.learn.config import Architecture, Recipe
from calotype.learn.data import Crops, read_folder
from calotype.learn.dyadic import DyadicBlock, DyadicConv, activation, stream
from calotype.learn.export import export, family, frequencies, members
from calotype.learn.grow import grown, kept_channels
from calotype.learn.model import Codec
from calotype.learn.muon import orthogonalise
from calotype.learn.start import start_as_transform
from calotype.prior import choose, places_of, step_of, words_of
from calotype.quantise import round_to_nearest
from calotype.runtime import Runtime

SMALL = Architecture(y_channels=32, z_channels=16, width=32, blocks=2, prior_width=32, context_blocks=1)
CARD = {"name": "small", "version": "0", "status": "preview"}


@pytest.fixture(scope="module")
def pictures(photo: Image.Image) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(photo.rotate(angle))) for angle in (0, 90)]


@pytest.fixture(scope="module")
def codec(pictures: list[torch.Tensor]) -> Codec:
    torch.manual_seed(0)
    codec = Codec(SMALL)
    start_as_transform(codec, Crops(pictures, [], 256, 128, 0).batch(16)[0])
    heads = [step.head.weight for step in codec.steps]
    for p in (*heads, codec.h_s.level.knots, codec.z_prior.mean.knots):
        torch.nn.init.normal_(p, std=0.5)
    for layer in (codec.g_a.shortcut, codec.g_s.shortcut):
        torch.nn.init.normal_(layer.weight, std=0.01)
    return codec.eval()


@pytest.fixture(scope="module")
def runtime(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    path = tmp_path_factory.mktemp("model") / "small.calomodel"
    bundle.write(path, members(codec, CARD, family())[0])
    return Runtime(bundle.read(path))


def test_dyadic_layer_is_integer_arithmetic() -> None:
    """The layer against SPEC.md's out = clip((sum k a + B) >> S)."""
    torch.manual_seed(0)
    layer = DyadicConv(40, 24, 5, 255)
    torch.nn.init.normal_(layer.bias)
    a = torch.randint(0, 256, (1, 40, 5, 6))
    k, b, s = (t.long() for t in layer.integers())
    total = torch.einsum("oc,nchw->nohw", k, a) + b[:, None, None]
    shift = s[:, None, None].clamp_min(0)
    half = torch.where(shift > 0, 1 << (shift - 1).clamp_min(0), 0)
    expected = ((total + half) >> shift).clamp(-512, 511)
    torch.testing.assert_close((stream(layer(a / 32)) * 32).long(), expected, rtol=0, atol=0)


def test_dyadic_block_stays_on_its_grid() -> None:
    torch.manual_seed(0)
    r = DyadicBlock(16)(stream(torch.randn(2, 16, 8, 8) * 9)) * 32
    assert torch.equal(r, r.round())
    assert (r.min() >= -512) & (r.max() <= 511)
    assert torch.equal(activation(torch.tensor([-1.0, 99.0])), torch.tensor([0.0, 255 / 32]))


def test_the_bound_holds_whatever_the_weights() -> None:
    codec = Codec(SMALL)
    for layer in codec.modules():
        if isinstance(layer, DyadicConv):
            torch.nn.init.constant_(layer.weight, 50.0)
            torch.nn.init.constant_(layer.bias, -9e9)
    assert max(layer.used for layer in members(codec, CARD, family())[1]) < 1


def test_exported_prior_equals_torch_exactly(codec: Codec, runtime: Runtime, rng: np.random.Generator) -> None:
    z = rng.integers(-127, 128, (16, 2, 3)).astype(np.int16)
    y8 = rng.integers(-9000, 9000, (32, 8, 12)).astype(np.int32)
    with torch.no_grad():
        features = codec.h_s(torch.from_numpy(z).float()[None], torch.tensor([77]))
        np.testing.assert_array_equal(runtime.features(z, 77), features[0].numpy() * 32)
        for t, step in enumerate(codec.steps):
            mean, index = step(features, torch.from_numpy(y8)[None] / 8 if t else None)
            result = runtime.step(t, features[0].numpy() * 32, y8)
            np.testing.assert_array_equal(result[0], mean[0].numpy() * 8)
            np.testing.assert_array_equal(result[1], index[0].numpy())


def test_exported_transforms_are_close(codec: Codec, runtime: Runtime, pictures: list[torch.Tensor]) -> None:
    x = pictures[0][:128, :192].permute(2, 0, 1)[None].float() / 255 - 0.5
    level = torch.tensor([128])
    with torch.no_grad():
        y = codec.g_a(x, level)
        np.testing.assert_allclose(runtime.analyse(x[0].numpy(), 128), y[0], atol=0.02 * float(y.abs().max()))
        np.testing.assert_allclose(runtime.hyper_analyse(y[0].numpy()), codec.h_a(y)[0], atol=0.05)
        np.testing.assert_allclose(runtime.synthesise(y[0].numpy(), 128), codec.g_s(y, level)[0], atol=0.01)


def test_growth_keeps_what_was_learned_and_loses_less(codec: Codec, pictures: list[torch.Tensor]) -> None:
    crops = Crops(pictures, [], 256, 128, 0)
    larger = Codec(replace(SMALL, y_channels=48))
    fitted = torch.cat([crops.batch(16)[0] for _ in range(16)])
    larger.load_state_dict(grown(codec.state_dict(), larger.arch, fitted))
    larger.eval()
    kept, level = kept_channels(32, 48), torch.full((16,), 208)
    x = crops.batch(16)[0]
    with torch.no_grad():
        y, more = codec.g_a(x, level), larger.g_a(x, level)
        torch.testing.assert_close(more[:, kept], y)
        torch.testing.assert_close(larger.h_a(more), codec.h_a(y))
        features = stream(torch.randn(1, 32, 4, 4))
        for before, after in zip(codec.steps[0](features), larger.steps[0](features), strict=True):
            torch.testing.assert_close(after[:, kept], before)
        np.testing.assert_array_equal(step_of(4, 48, 2, 2)[kept], step_of(4, 32, 2, 2))
        lost = [(c.g_s(v, level) - x).square().mean() for c, v in ((codec, y), (larger, more))]
    assert lost[1] < 0.8 * lost[0]


def test_real_bits_are_the_estimated_ones(pictures: list[torch.Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = Codec(SMALL).eval()
    start_as_transform(codec, Crops(pictures, [], 256, 128, 0).batch(16)[0])
    for step in codec.steps:
        step.head.bias.data[SMALL.y_channels :] = 40 / 8  # wide tables, so that nothing escapes
    bundle.write(tmp_path / "x.calomodel", members(codec, CARD, family())[0])
    runtime = Runtime(bundle.read(tmp_path / "x.calomodel"))
    x = pictures[0][:256, :256].permute(2, 0, 1)[None].float() / 255 - 0.5
    for level in (60, 120):
        with torch.no_grad():
            coded = codec(x, torch.tensor([level]))
            y = codec.g_a(x, torch.tensor([level]))[0].numpy()
        words = words_of(runtime, choose(runtime, y, level, (256, 256), round_to_nearest))
        assert 8 * len(words) == pytest.approx(float(coded.y_bits + coded.z_bits), rel=0.005)


def test_two_steps_grow_into_four() -> None:
    torch.manual_seed(0)
    two = Codec(replace(SMALL, context_steps=2)).eval()
    four = Codec(SMALL).eval()
    four.load_state_dict(grown(two.state_dict(), SMALL, torch.empty(0)))
    y, features = 9 * torch.randn(1, 32, 4, 8), stream(torch.randn(1, 32, 4, 8))
    with torch.no_grad():
        (y_two, *before), (y_four, *after) = two.predict(y, features), four.predict(y, features)
    early = torch.from_numpy(step_of(4, *y.shape[1:]) < 3)  # the fourth sees what the second did not
    assert torch.equal(y_two[:, early], y_four[:, early])
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[:, early], b[:, early])


@pytest.mark.parametrize("steps", [2, 4])
def test_steps_divide_y_evenly_and_each_sees_neighbours(steps: int) -> None:
    step = step_of(steps, 8, 4, 8)
    assert (np.bincount(step.ravel()) == step.size / steps).all()
    for places in (step[c, :2, :2] for c in range(8)):
        assert sorted(places.ravel()) == sorted(4 // steps * list(range(steps)))
    np.testing.assert_array_equal(step_of(2, 8, 4, 8), step_of(4, 8, 4, 8) // 2)
    inside = places_of(steps, 8, 4, 8, 17, 128)
    assert len(np.concatenate(inside)) == 8 * 2 * 8


def test_frequencies() -> None:
    for sigma in (0.11, 1.0, 256.0):
        q = frequencies(sigma).astype(np.int64)
        assert q.sum() == 1 << 24
        assert q.min() >= 1
        np.testing.assert_array_equal(q[:-1], q[-2::-1])


def test_tables_fit_what_was_counted() -> None:
    q = frequencies(1.0)
    assert np.array_equal(fit([q], [np.zeros(len(q), np.int64)])[0], q)
    count = np.zeros(len(q), np.int64)
    count[len(q) // 2 - 1] = 10**7  # only zeros
    (fitted,) = fit([q], [count])
    assert fitted[len(q) // 2 - 1] > 0.999 * 2**24
    assert fitted.min() >= 1
    assert int(fitted.sum(dtype=np.int64)) == 1 << 24


def test_starting_as_a_transform_helps(pictures: list[torch.Tensor]) -> None:
    torch.manual_seed(0)
    x, level = Crops(pictures, [], 256, 128, 0).batch(8)
    random, started = Codec(SMALL), Codec(SMALL)
    start_as_transform(started, x)
    with torch.no_grad():
        losses = [float(train.loss_of(c.eval(), x, level)[0]) for c in (random, started)]
    assert losses[1] < 0.5 * losses[0]


def test_orthogonalise() -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 24, 60)))
    assert (values > 0.6).all()
    assert (values < 1.3).all()


def _training(pictures: list[torch.Tensor], steps: int) -> train.Training:
    recipe = Recipe(steps=steps, batch=4, crop_px=64, warmup=2)
    return train.Training(SMALL, recipe, Crops(pictures, pictures[:1], 144, 64, recipe.seed))


def test_training_learns_and_resumes_bit_for_bit(pictures: list[torch.Tensor], tmp_path: Path) -> None:
    straight, broken = _training(pictures, 30), _training(pictures, 30)
    x, level = Crops(pictures, [], 256, 64, seed=9).batch(16)

    def loss() -> float:
        with torch.no_grad():
            return float(train.loss_of(straight.codec.eval(), x, level)[0])

    before = loss()
    torch.manual_seed(5)
    losses = [straight.advance()[0] for _ in range(30)]
    assert loss() < 0.8 * before
    torch.manual_seed(5)
    for _ in range(11):
        broken.advance()
    train.save(broken.state(), tmp_path / "checkpoint.pt")
    resumed = _training(pictures, 30)
    resumed.load(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert [resumed.advance()[0] for _ in range(19)] == losses[11:]
    for a, b in zip(straight.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_start_another_run(pictures: list[torch.Tensor], tmp_path: Path) -> None:
    first, second = _training(pictures, 9), _training(pictures, 9)
    for _ in range(3):
        first.advance()
    train.save_weights(first.state(), tmp_path / "weights.pt")
    second.start_from(torch.load(tmp_path / "weights.pt", weights_only=True))
    for a, b in zip(first.average.parameters(), second.codec.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_data_skips_what_is_no_picture(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.png")
    photo.resize((50, 50)).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG....")
    assert [p.shape for p in read_folder(tmp_path, 64)] == [(512, 512, 3)]
    with pytest.raises(FileNotFoundError, match="1000"):
        read_folder(tmp_path, 1000)


def test_from_folder_to_file(tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, export, encode with the result: all as a user would."""
    monkeypatch.setattr(train, "Architecture", lambda: SMALL)
    photo.save(tmp_path / "photo.png")
    arguments = [
        "train",
        str(tmp_path),
        "--out",
        str(tmp_path / "run"),
        "--steps",
        "60",
        "--batch",
        "4",
        "--crop-px",
        "64",
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    train.main()
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["step"] == 50
    out = tmp_path / "mine.calomodel"
    export(tmp_path / "run", out, {**CARD, "name": "mine"}, [photo.reduce(3)], [photo.crop((0, 0, 128, 128))])
    data = calotype.encode(photo, quality=70, model=out)
    assert calotype.decode(data, model=out).size == photo.size
    assert container.unpack_header(data).coding is not None
    assert len(bundle.read(out).manifest.card["curve"]) >= 5
