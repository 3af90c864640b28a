from __future__ import annotations

import math
import sys
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import calotype
from calotype import bundle
from calotype.bundle import Bundle
from calotype.encoder import PictureCoder
from calotype.errors import InvalidModel, OptionError
from calotype.learn import prior, refine
from calotype.learn.data import Crops
from calotype.learn.dyadic import DyadicConv, keep_rounded
from calotype.learn.export import family, members, table_members
from calotype.learn.model import Codec
from calotype.learn.restore import codec_of
from calotype.learn.start import start_as_transform
from calotype.pixels import from_image
from calotype.runtime import Runtime
from conftest import psnr_db
from test_learn import CARD, SMALL, check_prior

LEVEL = 100


@pytest.fixture(scope="module")
def codec(crops: Crops) -> Codec:
    torch.manual_seed(1)
    codec = Codec(SMALL)
    start_as_transform(codec, crops.batch(0)[0])
    with torch.no_grad():
        for knots in (codec.h_s.level.knots, codec.g_a.feature_gain.knots):
            knots.normal_(std=0.1)
        for layer in codec.modules():
            if isinstance(layer, DyadicConv):
                layer.bias.normal_(std=0.1)
        for step in codec.steps:
            step.head.bias[SMALL.y_channels :] += 1
    return codec.eval()


@pytest.fixture(scope="module")
def model(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("model") / "small.calomodel"
    bundle.write(path, members(codec, CARD, family())[0])
    return bundle.read(path)


@pytest.fixture(scope="module")
def crop(photo: Image.Image) -> Image.Image:
    return photo.crop((180, 60, 340, 160))


def _cost(image: Image.Image, data: bytes, model: Bundle) -> float:
    """Bpp + lambda 255^2 mse of a file."""
    level = calotype.info(data).level
    assert level is not None
    mse = 10 ** (-psnr_db(image, calotype.decode(data, model=model)) / 10)
    return 8 * len(data) / math.prod(image.size) + model.manifest.lambda_of(level) * 255**2 * mse


def _at(image: Image.Image, model: Bundle, effort: int) -> bytes:
    return PictureCoder.of(from_image(image, strip=True), Runtime(model), effort).at_level(LEVEL)


def test_what_is_drawn() -> None:
    v = torch.tensor([-1.0, 0.0, 0.2, 0.6, 3.9], requires_grad=True)
    random = torch.Generator().manual_seed(0)
    for temperature, noise in ((0.5, 1.0), (0.2, 0.0)):
        drawn = refine.draw(v, temperature, noise, random)
        assert ((drawn >= v.floor()) & (drawn <= v.floor() + 1)).all()
        (slope,) = torch.autograd.grad(drawn.sum(), v)
        assert slope.isfinite().all()
    torch.testing.assert_close(drawn.round(), v.round())
    assert torch.equal(drawn, refine.draw(v, 0.2, 0.0, random))


def test_weights_kept_rounded_are_those_of_the_decoder(codec: Codec) -> None:
    kept = deepcopy(codec)
    keep_rounded(kept)
    z, level = torch.randn(1, SMALL.z_channels, 2, 2).mul(9).round(), torch.tensor([77])
    assert torch.equal(kept.h_s(z, level), codec.h_s(z, level))
    assert not torch.equal(kept.h_s.stem.weight, codec.h_s.stem.weight)


def test_restored_prior_equals_the_bundle_exactly(model: Bundle) -> None:
    codec = codec_of(model)
    bias = torch.from_numpy(model.level_bias[77] / np.float32(32))[None, :, None, None]
    check_prior(codec, Runtime(model), 77, lambda z: codec.h_s.biased(z, bias))


def test_restored_transforms_are_close(codec: Codec, model: Bundle, rng: np.random.Generator) -> None:
    restored = codec_of(model)
    x = torch.from_numpy(rng.random((1, 3, 64, 128), np.float32)) - 0.5
    level = torch.tensor([128])
    with torch.no_grad():
        y = codec.g_a(x, level)
        torch.testing.assert_close(restored.g_a(x, level), y, rtol=0, atol=0.02 * float(y.abs().max()))
        torch.testing.assert_close(restored.h_a(y), codec.h_a(y), rtol=0, atol=0.02)
        torch.testing.assert_close(restored.g_s(y, level), codec.g_s(y, level), rtol=0, atol=0.01)
        for name in ("mean", "log_sigma"):
            restored_table, table = (getattr(c.z_prior, name).table() for c in (restored, codec))
            torch.testing.assert_close(restored_table, table, rtol=0, atol=0.5)


def test_restored_weights_give_the_same_integers_when_rounding_made_them_larger(tmp_path: Path) -> None:
    """Where weights fill the bound, their rounded sum can exceed it."""
    torch.manual_seed(3)
    codec = Codec(replace(SMALL, y_channels=128))
    for step in codec.steps:
        torch.nn.init.uniform_(step.head.weight, 0.4, 0.7)
        torch.nn.init.uniform_(step.head.bias, -3, 3)
    content = members(codec, CARD, family())[0]
    bundle.write(tmp_path / "x.calomodel", content)
    again = members(codec_of(bundle.read(tmp_path / "x.calomodel")), CARD, family())[0]
    for name in ("h_s.onnx", "step_0.onnx", "step_3.onnx"):
        assert again[name] == content[name]


def test_a_model_with_half_as_many_tables_can_be_trained_on(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As all had before 0.12.0."""
    for name, value in (("SIGMA_COUNT", 64), ("INDEX_BITS", 3)):
        monkeypatch.setattr(prior, name, value)
    bundle.write(tmp_path / "x.calomodel", members(codec, CARD, family())[0])
    monkeypatch.undo()
    restored = codec_of(bundle.read(tmp_path / "x.calomodel"))
    now, before = (members(c, CARD, family())[0] for c in (restored, codec))
    for name in ("step_0.onnx", "step_3.onnx"):
        assert now[name] == before[name]
    tables = [c.z_prior.log_sigma.table() for c in (restored, codec)]
    torch.testing.assert_close(*tables, rtol=0, atol=prior.log_sigma_step(64))


@pytest.mark.parametrize(
    "change", ["no analysis", "no architecture", "other architecture", "foreign constants", "one table"]
)
def test_what_cannot_be_restored_says_so(model: Bundle, change: str) -> None:
    content, card = dict(model.members), dict(model.manifest.card)
    if change == "no analysis":
        del content["h_a.onnx"]
    elif change == "no architecture":
        del card["architecture"]
    elif change == "other architecture":
        card["architecture"] = {**card["architecture"], "width": 48}
    elif change == "foreign constants":
        content["g_a.onnx"] = content["h_a.onnx"]
    else:
        content |= table_members(family()[:1])
    with pytest.raises(InvalidModel, match=r"small.calomodel.*calotype.learn.export"):
        codec_of(replace(model, members=content, manifest=replace(model.manifest, card=card)))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_more_effort_costs_less(crop: Image.Image, model: Bundle, mode: str) -> None:
    image = crop.convert(mode)
    costs = [_cost(image, _at(image, model, effort), model) for effort in (2, 3, 4, 5, 7)]
    for before, after in pairwise(costs):
        assert after < 1.002 * before  # latents are chosen before their post-filter is fitted
    assert costs[-1] < 0.99 * costs[0]


def test_same_bytes_every_time_and_no_trace_in_the_random_state(crop: Image.Image, model: Bundle) -> None:
    before = torch.get_rng_state()
    assert _at(crop, model, 7) == _at(crop, model, 7)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("effort", [3, 7])
def test_limits_hold(crop: Image.Image, photo_model: Bundle, effort: int) -> None:
    usual = _at(crop, photo_model, 2)
    data = calotype.encode(crop, size=len(usual), effort=effort)
    assert len(data) <= len(usual)
    wanted_db = psnr_db(crop, calotype.decode(usual)) - 0.1
    data = calotype.encode(crop, psnr=wanted_db, effort=effort)
    assert psnr_db(crop, calotype.decode(data)) >= wanted_db
    assert len(data) < len(usual)


def test_tiles_are_refined_with_their_surroundings(
    photo: Image.Image, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of four tiles is no worse than the same in one, up to what tiles cost."""
    image = photo.crop((100, 0, 300, 180))
    whole = _cost(image, _at(image, model, 7), model)
    monkeypatch.setattr("calotype.encoder.LARGEST_TILE_PX", 64)
    monkeypatch.setattr("calotype.encoder.TILE_PX", 128)
    data = _at(image, model, 7)
    assert calotype.info(data).tiles == 4
    assert _cost(image, data, model) < 1.1 * whole


def test_without_torch_high_efforts_say_what_to_install(
    crop: Image.Image, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("calotype.learn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert calotype.encode(crop, effort=6, model=model)
    with pytest.raises(OptionError, match=r"pip install \"calotype\[learn\]\""):
        calotype.encode(crop, effort=7, model=model)
