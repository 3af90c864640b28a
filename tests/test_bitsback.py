"""Bits back: any images come back, at the price of the ELBO, whatever computes the networks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calotype import bundle, library
from calotype.bitsback import chunk
from calotype.bitsback.model import HALF, RING, LatentBundle, Model, Shifted, bundle_of
from calotype.bundle import ModelFile
from calotype.coding import PRECISION_BITS, Family, Stack
from calotype.datasets import Dataset, Split, load
from calotype.errors import DamagedFile, InexactRuntime, InputError, InvalidModel, OptionError
from calotype.learn.bitsback import fit, tables
from calotype.learn.bitsback.export import members
from calotype.learn.bitsback.fit import plan_of
from calotype.learn.bitsback.nets import Architecture, LatentModel
from calotype.learn.bitsback.train import Recipe, Row, Training, bpd
from calotype.proof import prove
from calotype.runtime import Networks

sys.path.insert(0, str(Path(__file__).parent))

from graph_in_torch import run_graph

CARD = {"name": "tiny", "version": "1", "status": "preview"}
FLAT = Architecture(image=(6, 5, 1), latents=(7,), width=12)
DEEP = Architecture(image=(4, 6, 3), latents=(3, 5), width=9, depth=2)


def _bundle(arch: Architecture, tmp_path: Path, seed: int = 0) -> LatentBundle:
    torch.manual_seed(seed)
    model = LatentModel(arch)
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    path = tmp_path / "tiny.calomodel"
    bundle.write(path, members(model, CARD))
    found = library.open_path(path)
    assert isinstance(found, LatentBundle)
    return found


@pytest.fixture(scope="module", params=[FLAT, DEEP], ids=["flat", "two layers"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LatentBundle:
    return _bundle(request.param, tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def images(tiny: LatentBundle, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (5, *tiny.form.image), np.uint8)


def _family(rng: np.random.Generator, count: int, symbols: int) -> Family:
    return Family(np.stack([tables.to_frequencies(row) for row in rng.random((count, symbols)) ** 4]))


@given(seed=st.integers(0, 2**32 - 1), pops=st.integers(0, 6))
def test_popped_symbols_pushed_again_give_the_words_back(seed: int, pops: int) -> None:
    rng = np.random.default_rng(seed)
    family = _family(rng, 5, 17)
    stack = Stack()
    index = rng.integers(0, 5, 30).astype(np.uint8)
    stack.push(rng.integers(0, 17, 30).astype(np.int32), index, family)
    words = stack.words()
    popped = [stack.pop(index, family) for _ in range(pops)]  # from the second on, the stack runs dry
    for symbols in reversed(popped):
        stack.push(symbols, index, family)
    assert stack.words() == words


@given(z=st.integers(-HALF, HALF - 1), mean=st.integers(-5000, 5000))
def test_a_shifted_table_covers_the_ring(z: int, mean: int) -> None:
    stack = Stack()
    shifted = Shifted(np.array([mean], np.int32), np.zeros(1, np.uint8), Family(tables.latent_tables()[3:4]))
    shifted.push(np.array([z], np.int32), stack)
    assert shifted.pop(stack).item() == z
    assert -HALF <= shifted.mode.item() < HALF
    stack.finish()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_images_come_back(tiny: LatentBundle, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    images = data.draw(arrays(np.uint8, (count, *tiny.form.image)))
    model = Model(tiny)
    packed = chunk.encode(model, images)
    np.testing.assert_array_equal(chunk.decode(model, packed, count), images)


def test_patches_become_channels_as_pixel_unshuffle_makes_them(tiny: LatentBundle, rng: np.random.Generator) -> None:
    card = tiny.card | {"image": [8, 12, 2], "patch": [4, 4]}
    model = Model(LatentBundle(tiny.path, tiny.members, card, *_form_of(card, tiny)))
    image = rng.integers(0, 256, (8, 12, 2), np.uint8)
    x = model.to_x(image)
    expected = torch.nn.functional.pixel_unshuffle(torch.tensor(image).permute(2, 0, 1)[None].float(), 4)
    np.testing.assert_array_equal(x, expected.numpy())
    np.testing.assert_array_equal(model.to_image(x.ravel().astype(np.int32)), image)


def _form_of(card: dict, like: LatentBundle) -> tuple:
    from calotype.bitsback.model import _form

    return _form(card), like.scales, like.pixels


class TorchNetworks(Networks):
    def run(self, graph: str, **inputs: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return run_graph(self.file.members[graph], inputs)


RUNTIMES = {
    "1 thread": lambda b: Networks(b, threads=1),
    "2 threads": lambda b: Networks(b, threads=2),
    "graphs as they are": lambda b: Networks(b, threads=2, optimise=False),
    "PyTorch": TorchNetworks,
}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_unpacks_the_same(tiny: LatentBundle, images: np.ndarray, runtime: str) -> None:
    packed = chunk.encode(Model(tiny), images)
    model = Model(tiny, RUNTIMES[runtime](tiny))
    assert chunk.encode(model, images) == packed
    np.testing.assert_array_equal(chunk.decode(model, packed, len(images)), images)


def test_training_and_coder_compute_the_same(tmp_path: Path, rng: np.random.Generator) -> None:
    found = _bundle(FLAT, tmp_path)
    torch.manual_seed(0)
    net = LatentModel(FLAT)
    for p in net.parameters():
        p.data += 0.3 * torch.randn_like(p)
    z = rng.integers(-HALF, HALF, 7).astype(np.int32)
    mean, shape = net.likelihood(torch.tensor(z[None]).float())
    from calotype.learn.bitsback.nets import to_index

    wanted = to_index(mean, tables.MEANS) * tables.SHAPES + to_index(shape, tables.SHAPES)
    np.testing.assert_array_equal(Model(found).likelihood([z]), wanted[0].detach().numpy())


class SlightlyWrong(Networks):
    def run(self, graph: str, **inputs: np.ndarray) -> list[np.ndarray]:
        mean, index = super().run(graph, **inputs)
        mean = mean.copy()
        mean.flat[0] = mean.flat[0] - 1 if mean.flat[0] else 1
        return [mean, index]


def test_an_inexact_runtime_is_told_apart(tiny: LatentBundle, images: np.ndarray) -> None:
    packed = chunk.encode(Model(tiny), images)
    with pytest.raises(InexactRuntime):
        chunk.decode(Model(tiny, SlightlyWrong(tiny)), packed, len(images))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=st.binary(max_size=200), count=st.integers(1, 3))
def test_any_bytes_are_refused(tiny: LatentBundle, raw: bytes, count: int) -> None:
    with pytest.raises((DamagedFile, InexactRuntime)):
        chunk.decode(Model(tiny), raw, count)


def _learned(arch: Architecture, steps: int) -> tuple[Training, np.ndarray, list[Row]]:
    digits = load("digits")
    flat = [torch.from_numpy(s.images.reshape(len(s), -1).copy()) for s in (digits.train, digits.validation)]
    training = Training(arch, Recipe(steps=steps, batch=100, fit_every=steps // 2, fit_images=500), *flat)
    rows: list[Row] = []
    training.run(rows.append)
    return training, digits.test.images, rows


@pytest.mark.parametrize("latents", [(10,), (6, 8)], ids=["flat", "two layers"])
def test_an_archive_is_as_large_as_the_elbo_says(latents: tuple[int, ...], tmp_path: Path) -> None:
    arch = Architecture(image=(8, 8, 1), latents=latents, width=48)
    training, images, rows = _learned(arch, 150)
    assert rows[-1].validation_bpd < rows[0].validation_bpd
    path = tmp_path / "digits.calomodel"
    bundle.write(path, members(training.model, CARD))
    found = library.open_path(path)
    assert isinstance(found, LatentBundle)
    model = Model(found)
    packed = chunk.encode(model, images)
    np.testing.assert_array_equal(chunk.decode(model, packed, len(images)), images)
    elbo_bytes = bpd(training.model, torch.from_numpy(images.reshape(len(images), -1).copy())) * images.size / 8
    assert abs(len(packed) / elbo_bytes - 1) < 0.01
    assert len(packed) < 0.62 * images.size


def test_the_same_seed_trains_the_same_model() -> None:
    arch = Architecture(image=(8, 8, 1), latents=(4,), width=16)
    a, b = (members(t.model, CARD) for t, *_ in (_learned(arch, 10), _learned(arch, 10)))
    assert a == b


def test_pixel_cost_is_what_the_coder_spends_and_slopes_down_hill() -> None:
    cost = tables.PixelCost(tables.beta_binomials())
    mean = torch.tensor([20.0, 40.0], requires_grad=True)
    shape = torch.tensor([8.0, 3.0], requires_grad=True)
    values = torch.tensor([255, 0], dtype=torch.uint8)
    bits = cost(mean, shape, values)
    at = [20 * tables.SHAPES + 8, 40 * tables.SHAPES + 3]
    wanted = PRECISION_BITS - np.log2(cost.frequencies[at, [255, 0]].astype(float))
    np.testing.assert_allclose(bits.detach().numpy(), wanted, rtol=1e-5)
    bits.sum().backward()
    assert mean.grad is not None
    assert mean.grad[0] < 0 < mean.grad[1]


def test_tilted_tables_expect_what_was_counted(rng: np.random.Generator) -> None:
    masses = tables.beta_binomials()[300:800]
    wanted = masses * rng.uniform(0.5, 2, tables.VALUES)
    counts = 1e4 * wanted / wanted.sum(1, keepdims=True)
    tilted = tables.tilted(masses, counts)
    np.testing.assert_allclose(counts.sum(1) @ tilted, counts.sum(0), rtol=0.02)
    np.testing.assert_allclose(tilted.sum(1), 1)


def test_graphs_that_cannot_be_proved_are_refused(tiny: LatentBundle, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(tiny.members["likelihood.onnx"])
    scale = next(t for t in graph.graph.initializer if t.name.endswith("head.0.scale"))
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(0.7), scale.name))
    with pytest.raises(InvalidModel):
        prove("likelihood.onnx", graph.SerializeToString())
    path = tmp_path / "hostile.calomodel"
    bundle.write(path, tiny.members | {"likelihood.onnx": graph.SerializeToString()})
    with pytest.raises(InvalidModel):
        library.open_path(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"image": [6, 5]}, {"image": [6, 5, 0]}, {"image": [1 << 20, 5, 1]}, {"patch": [7, 5]}, {"latents": []},
        {"latents": [[1 << 20, 1, 1]]}, {"prior_scale": 32}, {"prior_scale": -1}, {"prior_scale": 1.0}, {"shapes": 0},
        {"decoding": ["pixels.u32"]}, {"latents": None}, {"kind": "unheard-of"}, {"kind": "photo"},
    ],
)  # fmt: skip
def test_bad_manifests(tmp_path: Path, changes: dict[str, object]) -> None:
    found = _bundle(FLAT, tmp_path)
    path = tmp_path / "bad.calomodel"
    bundle.write(path, found.members | {"manifest.json": json.dumps(found.card | changes).encode()})
    with pytest.raises(InvalidModel):
        library.open_path(path)


@pytest.mark.parametrize("name", ["scales.u32", "pixels.u32"])
@pytest.mark.parametrize("raw", [b"", b"\1\0\0\0", bytes(4 * RING), (1 << 24).to_bytes(4, "little") * RING])
def test_bad_tables(tmp_path: Path, name: str, raw: bytes) -> None:
    found = _bundle(FLAT, tmp_path)
    with pytest.raises(InvalidModel, match=name.split(".")[0]):
        bundle_of(ModelFile(found.path, found.members | {name: raw}, found.card))


def test_a_photo_codec_does_not_take_it(tiny: LatentBundle) -> None:
    with pytest.raises(InvalidModel, match="bits-back"):
        library.find(tiny.path)


@pytest.mark.parametrize(("off_mean", "off_index"), [(0, 5000), (-300, 0)])
def test_a_model_that_names_unknown_tables(
    tiny: LatentBundle, images: np.ndarray, off_mean: int, off_index: int
) -> None:
    class Wild(Networks):
        def run(self, graph: str, **inputs: np.ndarray) -> list[np.ndarray]:
            mean, index = super().run(graph, **inputs)
            return [mean + off_mean, index + off_index]

    with pytest.raises(InvalidModel, match="tables that the model does not have"):
        chunk.encode(Model(tiny, Wild(tiny)), images)
    assert prod(tiny.form.x) == images[0].size


def test_a_stopped_training_goes_on_as_if_it_had_not_been(rng: np.random.Generator) -> None:
    arch = Architecture(image=(4, 4, 1), latents=(3,), width=8)
    images = torch.from_numpy(rng.integers(0, 256, (60, 16), np.uint8))
    recipe = Recipe(steps=12, batch=20, fit_every=4, fit_images=30)
    whole, first, second = (Training(arch, recipe, images, images) for _ in range(3))
    assert whole.run(lambda _: None)
    assert not first.run(lambda _: None, lambda: first.step == 5)
    second.load(first.state())
    assert second.run(lambda _: None)
    assert members(second.model, CARD) == members(whole.model, CARD)
    third = Training(arch, recipe, images, images)
    third.load(second.state())
    assert third.run(lambda _: None)
    assert members(third.model, CARD) == members(whole.model, CARD)


def test_images_that_no_model_holds_are_refused_before_training() -> None:
    split = Split(np.zeros((1, 200, 200, 3), np.uint8), np.zeros(1, np.uint8))
    with pytest.raises(InputError, match="--resize"):
        plan_of("hvae", None, Dataset("large", "none", split, split, split), "large", {})


def test_a_run_goes_on_with_the_same_images_only(tmp_path: Path) -> None:
    data = load("digits")
    plan = fit.plan_of("hvae", None, data, "x", {})
    (tmp_path / "config.json").write_text(json.dumps(asdict(plan)))
    fit._check_same(tmp_path, plan)
    turned = replace(data, train=replace(data.train, images=data.train.images[:, ::-1]))
    with pytest.raises(OptionError, match="other images"):
        fit._check_same(tmp_path, fit.plan_of("hvae", None, turned, "x", {}))


def test_training_by_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "digits.calomodel"
    arguments = ["train", "digits", "--arch", "hvae", "--minutes", "0.03", "-o", str(out)]
    done = subprocess.run([sys.executable, "-m", "calotype", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "validation_bpd" in out.with_suffix(".md").read_text()
    found = library.open_path(out)
    assert isinstance(found, LatentBundle)
    assert len(found.form.latents) == 2
