"""How z is coded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype import bundle
from calotype.bundle import Bundle
from calotype.errors import DamagedFile
from calotype.hyper import SIZES, Z_LIMIT, Context, HyperPrior, around, parts_of
from calotype.learn.calibrate import fit_context
from calotype.learn.config import Architecture
from calotype.learn.export import family, members, with_context
from calotype.learn.model import Codec
from calotype.learn.prior import SIGMA_COUNT
from calotype.prior import CHECKSUM_BYTES, choose, decode_tile, words_of
from calotype.quantise import round_to_nearest
from calotype.runtime import Runtime

K = 8
SMALL = Architecture(y_channels=8, z_channels=K, width=8, blocks=1, prior_width=8, context_blocks=1)
LEVEL = 100


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model whose channels of z have means of their own."""
    torch.manual_seed(0)
    codec = Codec(SMALL).eval()
    codec.z_prior.mean.knots.data = 9 * torch.randn_like(codec.z_prior.mean.knots)
    codec.z_prior.log_sigma.knots.data[:] = 1.0
    path = tmp_path_factory.mktemp("model") / "plain.calomodel"
    bundle.write(path, members(codec, {"name": "plain", "version": "0", "status": "preview"}, family())[0])
    return bundle.read(path)


def _with(context: Context, plain: Bundle, folder: Path) -> Runtime:
    bundle.write(folder / "context.calomodel", with_context(plain.members, context))
    return Runtime(bundle.read(folder / "context.calomodel"))


@pytest.fixture(scope="module")
def random(plain: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    rng = np.random.default_rng(0)
    weight, table = rng.integers(-128, 128, (2, K)), rng.integers(0, SIGMA_COUNT, (SIGMA_COUNT, SIZES))
    return _with(Context(weight.astype(np.int8), table.astype(np.uint8)), plain, tmp_path_factory.mktemp("random"))


def _words(runtime: Runtime, z: np.ndarray) -> bytes:
    _, rows, columns = z.shape
    y = np.zeros((8, 4 * rows, 4 * columns), np.float32)
    return words_of(runtime, choose(runtime, y, LEVEL, (64 * rows, 64 * columns), round_to_nearest, z))


@given(st.integers(1, 5), st.integers(1, 5))
def test_each_element_has_one_part_and_its_neighbours_come_before(rows: int, columns: int) -> None:
    part = np.zeros((K, rows, columns), int)
    for t, elements in enumerate(parts_of(K, rows, columns)):
        part.ravel()[elements] += t
    assert sum(map(len, parts_of(K, rows, columns))) == part.size
    for t in (1, 2):
        later = (part >= t).astype(np.int32)
        assert not around(later, t)[1][part == t].any()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000))
def test_any_z_comes_back(random: Runtime, plain: Bundle, rows: int, columns: int, seed: int) -> None:
    z = np.random.default_rng(seed).normal(0, 90, (K, rows, columns)).astype(np.float32)
    for runtime in (random, Runtime(plain)):
        latents = decode_tile(runtime, memoryview(_words(runtime, z)), LEVEL, (64 * rows, 64 * columns))
        np.testing.assert_array_equal(latents.z, np.rint(z).clip(-Z_LIMIT, Z_LIMIT))


def test_a_z_beyond_its_limits_is_damage(random: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    z = np.full((K, 3, 3), 200, np.float32)
    monkeypatch.setattr("calotype.prior.Z_LIMIT", 200)
    words = _words(random, z)
    monkeypatch.undo()
    with pytest.raises(DamagedFile, match=r"z reaches 200"):
        decode_tile(random, memoryview(words), LEVEL, (192, 192))


def test_an_element_between_its_neighbours() -> None:
    """The example of SPEC.md's formulas, by hand."""
    near = np.repeat(np.arange(64, dtype=np.uint8)[:, None], SIZES, 1)
    near[7, 31] = 40
    weight = np.array([[32], [64]], np.int8)
    prior = HyperPrior(np.array([3], np.int16), np.array([7], np.uint8), Context(weight, near))
    z = np.array([[[13, 0, 23], [0, 0, 0], [3, 0, -27]]], np.int32)
    mean, index = prior.of_part(1, z)
    assert (mean.tolist(), index.tolist()) == ([3 + (32 * (10 + 20 + 0 - 30) + 128 >> 8)], [40])
    z[0, 1, 1] = 8
    totals = 10 + 20 + 5, 10 + 0 + 5, 20 - 30 + 5, 0 - 30 + 5
    above, left, right, below = (3 + (64 * total + 128 >> 8) for total in totals)
    mean, index = prior.of_part(2, z)
    assert (mean.tolist(), index.tolist()) == ([above, left, right, below], [40, 7, 40, 40])


def _smooth(rng: np.random.Generator, offset: np.ndarray) -> np.ndarray:
    """A z whose channels vary slowly, in places more than elsewhere."""
    wide = rng.normal(0, 12, (K, 9, 9)) * rng.choice([0.1, 1.5], (K, 1, 1))
    wide = wide[:, 1:] + wide[:, :-1]
    return (np.rint(wide[:, :, 1:] + wide[:, :, :-1]) + offset[:, None, None]).clip(-Z_LIMIT, Z_LIMIT).astype(np.int16)


def test_a_fitted_context_saves_bits(plain: Bundle, tmp_path: Path, rng: np.random.Generator) -> None:
    seen = [_smooth(rng, plain.z_offset[LEVEL]) for _ in range(60)]
    context = fit_context({LEVEL: seen}, plain)
    assert context.weight.min() > 20
    others = [_smooth(rng, plain.z_offset[LEVEL]).astype(np.float32) for _ in range(10)]
    whole = Runtime(plain)
    runtimes = [whole] + [_with(c, plain, tmp_path) for c in (_unmoved(context), context)]
    without, with_mean, with_both = (sum(len(_words(r, z)) - CHECKSUM_BYTES for z in others) for r in runtimes)
    assert with_both < 0.98 * with_mean < 0.96 * without


def _unmoved(context: Context) -> Context:
    return replace(context, table=np.repeat(np.arange(len(context.table), dtype=np.uint8)[:, None], SIZES, 1))


def test_a_context_of_nothing_changes_nothing(plain: Bundle) -> None:
    context = fit_context({LEVEL: []}, plain)
    assert not context.weight.any()
    np.testing.assert_array_equal(context.table, _unmoved(context).table)
