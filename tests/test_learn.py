from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from calotype import bundle
from calotype.coding import Table, Tables
from calotype.errors import InputError
from calotype.learn import idle, muon
from calotype.learn.calibrate import fit, quiet
from calotype.learn.config import MOST_DETAIL, Architecture
from calotype.learn.data import Crops, padded_to
from calotype.learn.dyadic import DyadicBlock, DyadicConv, activation, stream
from calotype.learn.export import family, frequencies, members
from calotype.learn.grow import grown, kept_channels, origin
from calotype.learn.idle import without_idle_units
from calotype.learn.model import Codec
from calotype.learn.prior import RateAware
from calotype.learn.restore import codec_of
from calotype.learn.start import start_as_transform
from calotype.learn.train import Objective
from calotype.learn.transforms import Detail
from calotype.pixels import Picture
from calotype.prior import CHECKSUM_BYTES, choose, words_of
from calotype.proof import vet
from calotype.quantise import BITS_PER_SQUARED_STEP, rate_aware, round_to_nearest
from calotype.runtime import Runtime
from calotype.steps import channels_by_place, coded_of, parts_of, step_of
from calotype.tiling import padded

SMALL = Architecture(y_channels=32, z_channels=16, width=32, blocks=2, prior_width=32, context_blocks=1)
CARD = {"name": "small", "version": "0", "status": "preview"}


@pytest.fixture(scope="module")
def pictures(photo: Image.Image) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(photo.rotate(angle))) for angle in (0, 90)]


@pytest.fixture(scope="module")
def codec(crops: Crops) -> Codec:
    torch.manual_seed(0)
    codec = Codec(SMALL)
    start_as_transform(codec, crops.batch(0)[0])
    heads = [step.head.weight for step in codec.steps]
    for p in (*heads, codec.h_s.level.knots, codec.z_prior.mean.knots):
        torch.nn.init.normal_(p, std=0.5)
    for layer in (codec.g_a.shortcut, codec.g_s.shortcut):
        torch.nn.init.normal_(layer.weight, std=0.01)
    assert codec.g_s.detail is not None
    torch.nn.init.normal_(codec.g_s.detail.out.weight)
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


@torch.no_grad()
def check_prior(
    codec: Codec, runtime: Runtime, level: int, features_of: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """The bundle's prior and torch's give the same integers; `features_of` is h_s at the level."""
    rng = np.random.default_rng(0)
    z = rng.integers(-127, 128, (SMALL.z_channels, 2, 3)).astype(np.int16)
    y8 = rng.integers(-9000, 9000, (SMALL.y_channels, 8, 12)).astype(np.int32)
    features = features_of(torch.from_numpy(z).float()[None])
    np.testing.assert_array_equal(runtime.features(z, level), features[0].numpy() * 32)
    for t, step in enumerate(codec.steps):
        mean, index = step(features, torch.from_numpy(y8)[None] / 8 if t else None)
        result = runtime.step(t, features[0].numpy() * 32, y8)
        coded = step_of(len(codec.steps), *y8.shape) == t
        np.testing.assert_array_equal(result[0], (mean[0].numpy() * 8)[coded])
        np.testing.assert_array_equal(result[1], index[0].numpy()[coded])


def test_exported_prior_equals_torch_exactly(codec: Codec, runtime: Runtime) -> None:
    check_prior(codec, runtime, 77, lambda z: codec.h_s(z, torch.tensor([77])))


def test_exported_transforms_are_close(codec: Codec, runtime: Runtime, pictures: list[torch.Tensor]) -> None:
    x = pictures[0][:128, :192].permute(2, 0, 1)[None].float() / 255 - 0.5
    level = torch.tensor([128])
    with torch.no_grad():
        y = codec.g_a(x, level)
        np.testing.assert_allclose(runtime.analyse(x[0].numpy(), 128), y[0], atol=0.02 * float(y.abs().max()))
        np.testing.assert_allclose(runtime.hyper_analyse(y[0].numpy()), codec.h_a(y)[0], atol=0.05)
        np.testing.assert_allclose(runtime.synthesise(y[0].numpy(), 128), codec.g_s(y, level)[0], atol=0.01)


@pytest.mark.parametrize("blocks", [1, 4])
def test_a_synthesis_looks_as_far_as_its_model_says(tmp_path: Path, blocks: int) -> None:
    torch.manual_seed(0)
    codec = Codec(replace(SMALL, blocks=blocks)).eval()
    for block in codec.g_s.blocks:
        torch.nn.init.normal_(block.c.weight, std=0.5)
    bundle.write(tmp_path / "x.calomodel", members(codec, CARD, family())[0])
    model = bundle.read(tmp_path / "x.calomodel")
    y, inner = np.random.default_rng(0).normal(size=(32, 12, 12)).astype(np.float32), slice(5, 7)
    whole, apart = Runtime(model).synthesise(y, 128), list[float]()
    for margin in (model.manifest.heads[0].reach_px // 16, model.manifest.heads[0].reach_px // 16 - 1):
        seen = slice(inner.start - margin, inner.stop + margin)
        window, at = Runtime(model).synthesise(y[:, seen, seen], 128), slice(16 * margin, 16 * margin + 32)
        apart.append(float(np.abs(window[:, at, at] - whole[:, 80:112, 80:112]).max()))
    assert apart[0] < 1e-4 < apart[1]


def test_growth_keeps_what_was_learned_and_loses_less(codec: Codec, crops: Crops) -> None:
    larger = Codec(replace(SMALL, y_channels=48))
    fitted = torch.cat([crops.batch(i)[0] for i in range(16)])
    larger.load_state_dict(grown(codec.state_dict(), larger.arch, lambda: fitted))
    larger.eval()
    kept, level = kept_channels(32, 48), torch.full((16,), 208)
    x = crops.batch(16)[0]  # others than those that it was fitted to
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


@pytest.mark.parametrize("size_px", [(256, 256), (130, 200)])
def test_real_bits_are_the_estimated_ones(
    pictures: list[torch.Tensor], crops: Crops, tmp_path: Path, size_px: tuple[int, int]
) -> None:
    """Also where elements of y lie beneath padding alone and are not coded."""
    torch.manual_seed(0)
    codec = Codec(SMALL).eval()
    start_as_transform(codec, crops.batch(0)[0])
    for step in codec.steps:
        step.head.bias.data[SMALL.y_channels :] = 40 / 8  # wide tables, so that nothing escapes
    bundle.write(tmp_path / "x.calomodel", members(codec, CARD, family())[0])
    runtime = Runtime(bundle.read(tmp_path / "x.calomodel"))
    height, width = size_px
    picture = padded_to(pictures[0][:height, :width], padded(height), padded(width))
    x = picture.permute(2, 0, 1)[None].float() / 255 - 0.5
    for level in (60, 120):
        with torch.no_grad():
            coded = codec(x, torch.tensor([level]), torch.tensor([size_px]))
            y = codec.g_a(x, torch.tensor([level]))[0].numpy()
        words = words_of(runtime, choose(runtime, y, level, size_px, round_to_nearest))
        coded_bytes = len(words) - CHECKSUM_BYTES - 4  # and the least that rANS ends with
        assert 8 * coded_bytes == pytest.approx(float(coded.y_bits + coded.z_bits), rel=0.005)


def _no_crops() -> torch.Tensor:
    pytest.fail("crops are only for new channels of y")


@torch.no_grad()
@pytest.mark.parametrize("detail", [0, 8])
def test_new_details_begin_as_nothing(detail: int) -> None:
    has, level = Codec(replace(SMALL, detail=detail)).eval(), torch.tensor([60])
    if has.g_s.detail is not None:
        torch.nn.init.normal_(has.g_s.detail.out.weight)
    detailed = Codec(SMALL).eval()
    detailed.load_state_dict(grown(has.state_dict(), SMALL, _no_crops))
    y = torch.randn(1, SMALL.y_channels, 4, 6)
    torch.testing.assert_close(detailed.g_s(y, level), has.g_s(y, level))


def test_readers_take_the_widest_details(tmp_path: Path) -> None:
    codec = Codec(replace(SMALL, detail=MOST_DETAIL)).eval()
    bundle.write(tmp_path / "x.calomodel", members(codec, CARD, family())[0])
    vet(bundle.read(tmp_path / "x.calomodel"))


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_details_find_nothing_at_the_edges_of_a_plain_picture(channels: int) -> None:
    torch.manual_seed(0)
    net = Detail(replace(SMALL, channels=channels))
    torch.nn.init.normal_(net.out.weight)
    plain = torch.rand(2, channels, 1, 1).expand(2, channels, 9, 8)
    shown = net(plain, torch.tensor([0, 255]))
    torch.testing.assert_close(shown, shown[:, :, 4:5, 4:5].expand_as(shown))


@pytest.mark.parametrize("has", [{}, {"y_channels": 16}, {"context_steps": 2}, {"detail": 0}, {"detail": 8}])
def test_weights_tell_what_they_were_trained_in(has: dict[str, int]) -> None:
    arch = replace(SMALL, **has)
    assert origin(Codec(arch).state_dict(), SMALL) == arch


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.clear(), "no weights of a codec"),
        (lambda weights: weights.pop("h_a.stem.bias"), r"h_a.stem.bias is missing in the weights, \(32,\)"),
        (lambda weights: weights.update(other=torch.ones(2, 3)), r"other is \(2, 3\) in the weights, missing"),
        (lambda weights: weights.update({7: torch.ones(1)}), r"7 is \(1,\) in the weights, missing"),
        (lambda weights: weights.update({"g_a.down.bias": torch.ones(30)}), "30 y_channels"),
        (lambda weights: weights.update({"g_a.stem.bias": torch.ones(8)}), r"g_a.stem.bias is \(8,\).* \(32,\)"),
        (lambda weights: weights.update(Codec(replace(SMALL, y_channels=48)).state_dict()), "48 y_channels.* not 32"),
        (lambda weights: weights.update(Codec(replace(SMALL, detail=30)).state_dict()), "30 detail.* not 24"),
    ],
)
def test_weights_that_fit_no_codec_say_so(change: Callable[[dict[object, torch.Tensor]], object], said: str) -> None:
    weights = dict(Codec(SMALL).state_dict())
    change(weights)
    with pytest.raises(InputError, match=said):
        grown(weights, SMALL, _no_crops)


def test_two_steps_grow_into_four() -> None:
    torch.manual_seed(0)
    two = Codec(replace(SMALL, context_steps=2)).eval()
    four = Codec(SMALL).eval()
    four.load_state_dict(grown(two.state_dict(), SMALL, _no_crops))
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
    parts, coded = parts_of(steps, 8, 4, 8), coded_of(steps, 8, 4, 8, 17, 128)
    inside = np.concatenate([part.elements[some] for part, some in zip(parts, coded, strict=True)])
    np.testing.assert_array_equal(np.sort(inside) // 8 % 4, np.repeat([0, 1] * 8, 8))  # two rows of four


def test_what_a_step_codes_is_found_where_its_graph_leaves_it() -> None:
    y = np.arange(8 * 4 * 6).reshape(8, 4, 6)
    for t, part in enumerate(parts_of(4, 8, 4, 6)):
        places = [y[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        alone = [p[c] for p, c in zip(places, np.split(channels_by_place(t, 8), 4), strict=True)]
        np.testing.assert_array_equal(np.concatenate(alone).ravel()[part.gathered], y.ravel()[part.elements])
        np.testing.assert_array_equal(part.elements, np.flatnonzero(step_of(4, 8, 4, 6) == t))


def test_training_chooses_symbols_as_an_encoder_does() -> None:
    rng = np.random.default_rng(0)
    residual = rng.normal(0, 4, 10_000).astype(np.float32)
    index = rng.integers(0, 64, residual.size).astype(np.uint8)
    tables = Tables(tuple(Table((len(q) - 2) // 2, q) for q in family()))
    encoder = rate_aware(residual, index, tables)
    chosen = RateAware(BITS_PER_SQUARED_STEP)(torch.from_numpy(residual), torch.from_numpy(index)).numpy()
    assert (encoder != np.rint(residual)).mean() > 0.01
    assert (encoder == chosen).mean() > 0.995  # the table of an encoder is of integers


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


def test_which_tables_are_quiet() -> None:
    def count(zeros: int, others: int) -> np.ndarray:
        return np.array([0, others, zeros, 0, 0, 0])  # of -2..2 and the escape

    counts = [count(10**7, 10), count(10**7, 1000), count(10**6, 0), count(0, 0)]
    assert quiet(counts) == [True, False, False, False]


@pytest.mark.parametrize("sizes", [{}, {"width": 4}, {"width": 196}])
def test_starting_as_a_transform_helps(crops: Crops, sizes: dict[str, int]) -> None:
    """Also with more channels than the transforms have, and with wider ones than patches have numbers."""
    torch.manual_seed(0)
    x, level, _ = crops.batch(0)
    random, started = (Codec(replace(SMALL, **sizes)) for _ in range(2))
    start_as_transform(started, x)
    losses = [Objective(c.eval())(x, level)[0] for c in (random, started)]
    assert losses[1] < 0.5 * losses[0]
    losses[1].backward()
    for weight in (started.g_a.stem.weight, started.g_a.down.weight):
        assert weight.grad is not None
        assert weight.grad.abs().sum(1).all()  # nothing is cut off


@pytest.mark.parametrize("fast", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (24, 24)])
def test_orthogonalise(shape: tuple[int, int], fast: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "fast_type", lambda _: fast)  # pyright: ignore[reportUnknownLambdaType]
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    several, one = torch.logspace(-1.5, 0, 24), torch.zeros(24).index_fill(0, torch.tensor(0), 5.0)
    matrices = torch.stack([u * singular @ v for singular in (several, one)])
    for singular, at in zip(torch.linalg.svdvals(muon.orthogonalise(matrices)), (slice(None), 0), strict=True):
        assert 0.6 < singular[at].min() <= singular.max() < 1.4


def test_what_is_idle_is_left_out_and_predicts_the_same(
    crops: Crops, pictures: list[torch.Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    codec = Codec(replace(SMALL, prior_width=48)).eval()
    start_as_transform(codec, crops.batch(0)[0])
    block = codec.steps[1].blocks[0]
    block.a.bias.data[::2] = -99
    block.d.bias.data[:40] = -99
    seen = [Picture(p.numpy(), None, {}) for p in pictures]
    narrow = without_idle_units(codec, seen, (60, 200))
    assert (len(narrow.steps[1].blocks[0].a.bias), len(narrow.steps[1].blocks[0].d.bias)) == (32, 64)
    assert len(block.a.bias) == 48
    assert len(without_idle_units(codec, [], (60, 200)).steps[1].blocks[0].a.bias) == 48
    level, z = torch.tensor([60]), torch.randn(1, SMALL.z_channels, 2, 2).mul(4).round()
    known = torch.randn(1, SMALL.y_channels, 8, 8).round()
    with torch.no_grad():
        for before, after in zip(*(c.steps[1](c.h_s(z, level), known) for c in (codec, narrow)), strict=True):
            assert torch.equal(after, before)
    content, _ = members(narrow, CARD, family())
    bundle.write(tmp_path / "x.calomodel", content)
    restored = codec_of(bundle.read(tmp_path / "x.calomodel"))
    assert restored.steps[1].blocks[0].a.weight.shape == block.a.weight.shape
    again, _ = members(without_idle_units(restored, seen, (60, 200)), CARD, family())
    exact = [name for name in content if name.startswith(("h_s", "step"))]
    assert [again[name] for name in exact] == [content[name] for name in exact]


def test_few_pictures_are_looked_at_at_every_level(
    pictures: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units that only high qualities use are not idle, though the first level is a low one."""
    torch.manual_seed(0)
    codec = Codec(replace(SMALL, prior_width=40)).eval()
    codec.h_s.level.knots.data[4:] = 3.0
    codec.h_s.coarse.d.weight.data[:] = 0.1
    codec.h_s.coarse.d.bias.data[:] = -7.0
    seen = [Picture(pictures[0].numpy(), None, {})]

    def width(levels: tuple[int, ...]) -> int:
        return len(without_idle_units(codec, seen, levels).h_s.coarse.d.bias)

    assert width((0, 255)) == 80  # too few places to tell
    monkeypatch.setattr(idle, "LEAST_PLACES", 30)
    assert (width((0,)), width((0, 255))) == (16, 80)
