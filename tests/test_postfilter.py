"""What a file says of the error that synthesis leaves, from the weights to the picture."""

from __future__ import annotations

import hashlib
import itertools
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import calotype
from calotype import bundle, container, postfilter, search
from calotype.bundle import Bundle
from calotype.codec import runtime_of
from calotype.container import Container
from calotype.errors import DamagedFile, InputError
from calotype.learn.config import Architecture
from calotype.learn.export import family, members
from calotype.learn.model import Codec
from calotype.postfilter import NESTED, NO_WEIGHTS, Sample
from calotype.runtime import Runtime
from calotype.tiling import Box, padded
from conftest import ROOT, psnr_db

sys.path.insert(0, str(Path(__file__).parent))

import reference_decoder

MODES = resources.files("calotype").joinpath(postfilter.MODES_FILE).read_bytes()


@pytest.fixture(scope="module")
def runtime(photo_model: Bundle) -> Runtime:
    return runtime_of(photo_model)


@pytest.fixture(scope="module")
def filtered_file(small_photo: Image.Image) -> bytes:
    return calotype.encode(small_photo, quality=70, effort=3)


def _with(whole: Container, payload: bytes) -> bytes:
    """The same file with another post-filter."""
    return container.pack(whole.header, whole.metadata, [bytes(tile) for tile in whole.tiles], payload)


def test_the_modes_are_those_of_the_spec() -> None:
    assert hashlib.sha256(MODES).hexdigest() in (ROOT / "SPEC.md").read_text()
    assert postfilter.modes().shape == (max(NESTED), 3, 117)


weights = arrays(np.int8, st.integers(0, max(NESTED)))


@given(st.lists(weights, min_size=1, max_size=5))
def test_weights_go_and_come(tiles: list[np.ndarray]) -> None:
    payload = postfilter.pack(tiles)
    assert bool(payload) == any(map(len, tiles))
    if payload:
        for read in (
            postfilter.unpack(memoryview(payload), len(tiles)),
            reference_decoder.read_weights(payload, len(tiles)),
        ):
            for given_weights, found in zip(tiles, read, strict=True):
                np.testing.assert_array_equal(given_weights, found)


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        (b"\x81" + bytes(129), "129 modes; there are 128"),
        (b"\x03\x01\x02", "weights of tile 0 needs 3 bytes"),
        (b"\x01\x01\x00", "1 bytes stand after"),
    ],
)
def test_a_payload_that_breaks_a_rule_is_damage(filtered_file: bytes, payload: bytes, what: str) -> None:
    with pytest.raises(DamagedFile, match=what):
        calotype.decode(_with(container.unpack(filtered_file), payload))


@given(
    arrays(
        np.float32,
        st.tuples(st.just(3), st.integers(1, 40), st.integers(1, 9)),
        elements=st.floats(-0.75, 0.75, width=32),
    ),
    arrays(np.int8, st.integers(1, max(NESTED)), elements=st.integers(-20, 20)),
    st.data(),
)
def test_a_box_is_filtered_as_the_spec_says(
    runtime: Runtime, x: np.ndarray, weights: np.ndarray, data: st.DataObject
) -> None:
    height, width = x.shape[1:]
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    found = runtime.postfilter(x.clip(-0.5, 0.5), box, weights)
    wanted = reference_decoder.filtered(x, weights, MODES)[(slice(None), *box.slices())]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@given(
    arrays(
        np.float32,
        st.tuples(st.just(3), st.integers(1, 40), st.integers(1, 9)),
        elements=st.floats(-0.5, 0.5, width=32),
    ),
    st.integers(1, 4),
    st.data(),
)
def test_the_fit_sees_the_inputs_of_the_spec(x: np.ndarray, every: int, data: st.DataObject) -> None:
    """What modes make of the inputs that are counted is what the filter adds."""
    height, width = x.shape[1:]
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    weights = np.array([9, -7, 5, 3, -20], np.int8)
    kernel = np.tensordot(weights.astype(np.float32), postfilter.modes()[:5], 1)
    wanted = (reference_decoder.filtered(x, weights, MODES) - x)[(slice(None), *box.slices())]
    seen = np.zeros(box.height, int)
    for rows, inputs in postfilter.inputs_of(x, box, every):
        seen[rows] += 1
        np.testing.assert_allclose((kernel @ inputs).reshape(wanted[:, rows].shape), wanted[:, rows], atol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(seen), np.arange(0, box.height, every))
    assert seen.max() == 1


def test_a_box_is_seen_strip_by_strip(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x, box = rng.random((3, 50, 20), np.float32) - 0.5, Box(3, 2, 41, 17)
    for every in (1, 2, 3):
        whole = np.concatenate([inputs for _, inputs in postfilter.inputs_of(x, box, every)], axis=1)
        with monkeypatch.context() as patch:
            patch.setattr(postfilter, "_STRIP_PX", 30)
            strips = [inputs for _, inputs in postfilter.inputs_of(x, box, every)]
        assert len(strips) >= 3
        np.testing.assert_array_equal(np.concatenate(strips, axis=1), whole)


def test_some_rows_tell_enough(runtime: Runtime, rng: np.random.Generator) -> None:
    """Also where every second row is of another kind, as the colours of a picture are that were doubled."""
    x_hat, box = rng.random((3, 800, 30), np.float32) - 0.5, Box(0, 0, 800, 30)
    x = x_hat.copy()
    x[:, ::2] *= np.float32(0.9)
    samples = [Sample(x, x_hat, box)]
    every = postfilter.moments(runtime.products, samples, 24_000)
    for enough_px in (12_000, 6_000, 4_000):
        found = postfilter.moments(runtime.products, samples, 24_000, enough_px)
        for some, all_of_it in zip(found, every, strict=True):
            assert not np.array_equal(some, all_of_it)
            assert np.abs(some - all_of_it).max() < 0.15 * np.abs(all_of_it).max()


def test_parts_stand_for_the_whole(runtime: Runtime, rng: np.random.Generator) -> None:
    """Two halves tell what the whole tells."""
    x_hat = rng.random((3, 60, 40), np.float32) - 0.5
    x = np.float32(0.9) * x_hat
    halves = [Sample(x, x_hat, Box(top, 0, 30, 40)) for top in (0, 30)]
    whole = [Sample(x, x_hat, Box(0, 0, 60, 40))]
    found, wanted = (postfilter.moments(runtime.products, samples, 2400) for samples in (halves, whole))
    for some, all_of_it in zip(found, wanted, strict=True):
        np.testing.assert_allclose(some, all_of_it, rtol=1e-4, atol=1e-4 * np.abs(all_of_it).max())


def test_products_are_those_of_numpy_whatever_the_threads(photo_model: Bundle, rng: np.random.Generator) -> None:
    a, b = (rng.standard_normal((rows, 3_000)).astype(np.float32) for rows in (120, 117))
    one, two = (Runtime(photo_model, threads=threads).products(a, b) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, a.astype(np.float64) @ b.T, atol=1e-2)


def test_one_elimination_solves_for_every_count(rng: np.random.Generator) -> None:
    m = rng.standard_normal((max(NESTED), 300))
    q, b = m @ m.T, rng.standard_normal(max(NESTED))
    for count, found in zip(NESTED, postfilter._nested_solutions(q, b).T, strict=True):
        np.testing.assert_allclose(found[:count], np.linalg.solve(q[:count, :count], b[:count]), rtol=1e-9, atol=1e-12)
        assert not found[count:].any()


@pytest.mark.parametrize("mode", ["L", "RGBA", "16 bits"])
def test_grey_with_alpha_and_with_depth(small_photo: Image.Image, mode: str) -> None:
    picture = (
        np.asarray(small_photo).astype(np.uint16) * 257 if mode == "16 bits" else np.asarray(small_photo.convert(mode))
    )
    data = calotype.encode(picture, quality=100, effort=3)
    whole = container.unpack(data)
    found, without = (psnr_db(picture, calotype.decode_array(d)) for d in (data, _with(whole, b"")))
    assert found > without + 0.02


def test_a_psnr_that_only_more_effort_reaches(small_photo: Image.Image) -> None:
    most = psnr_db(small_photo, calotype.decode(calotype.encode(small_photo, quality=100)))
    with pytest.raises(InputError, match="this picture reaches"):
        calotype.encode(small_photo, psnr=most + 0.02)
    data = calotype.encode(small_photo, psnr=most + 0.02, effort=4)
    assert psnr_db(small_photo, calotype.decode(data)) >= most + 0.02


def test_the_fit_finds_what_was_missed(runtime: Runtime, rng: np.random.Generator) -> None:
    """Of a picture that lacks what some weights say, these; inside the box alone."""
    x_hat, box = rng.random((3, 70, 90), np.float32) - 0.5, Box(3, 5, 60, 80)
    wanted = rng.integers(-9, 10, 8).astype(np.int8)
    x = rng.random(x_hat.shape, np.float32)
    x[(slice(None), *box.slices())] = runtime.postfilter(x_hat, box, wanted)
    samples, area_px = [Sample(x, x_hat, box)], box.height * box.width
    found = postfilter.fit(runtime.products, samples, area_px, 1e9)
    np.testing.assert_allclose(found[:8], wanted, atol=1)
    assert np.abs(runtime.postfilter(x_hat, box, found) - x[(slice(None), *box.slices())]).max() < 0.1
    assert postfilter.fit(runtime.products, samples, area_px, 0.0) is NO_WEIGHTS
    dear = postfilter.fit(runtime.products, samples, area_px, 1e9, bits_a_weight=1 << 40)
    assert dear is NO_WEIGHTS


def test_a_filtered_file_is_nearer_to_the_picture(small_photo: Image.Image, filtered_file: bytes) -> None:
    """A reader that does not know the chunk shows the same picture with a little more error."""
    whole = container.unpack(filtered_file)
    assert len(whole.postfilter) > 4
    plain = _with(whole, b"")
    assert len(plain) == len(filtered_file) - len(whole.postfilter) - 6
    found, without = (psnr_db(small_photo, calotype.decode(data)) for data in (filtered_file, plain))
    assert found > without + 0.02


@pytest.mark.parametrize("effort", [1, 2])
def test_quick_efforts_filter_too(small_photo: Image.Image, effort: int) -> None:
    data = calotype.encode(small_photo, effort=effort)
    plain = _with(container.unpack(data), b"")
    found, without = (psnr_db(small_photo, calotype.decode(d)) for d in (data, plain))
    assert found > without + 0.02
    assert not container.unpack(calotype.encode(small_photo, effort=effort, head="visual")).postfilter


@pytest.mark.parametrize("width", [16, 288, 289, 300, 305, 768, 1024])
def test_bands_lie_apart_in_whole_steps(width: int) -> None:
    columns, margin_px = search._columns(width)
    assert all(c.start % 16 == 0 for c in columns)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(columns))
    assert columns[0].start >= 0
    assert columns[-1].stop <= padded(width)
    if width <= 288:
        assert (columns, margin_px) == ([slice(0, padded(width))], 0)
    else:
        assert [c.stop - c.start for c in columns] == [96] * 3


def test_bands_tell_nearly_as_much_as_the_whole(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a picture wider than they are together, and of a width and a height that are no whole steps."""
    picture = photo.crop((10, 0, 501, 333))
    data = calotype.encode(picture, quality=60)
    whole = container.unpack(data)
    without, with_bands = (psnr_db(picture, calotype.decode(d)) for d in (_with(whole, b""), data))
    monkeypatch.setattr(search, "BANDS", 100)
    with_all = psnr_db(picture, calotype.decode(calotype.encode(picture, quality=60)))
    assert without + 0.02 < with_bands < with_all + 0.01
    assert with_bands - without > 0.6 * (with_all - without)


def test_other_heads_are_not_filtered(small_photo: Image.Image, filtered_file: bytes) -> None:
    plain = _with(container.unpack(filtered_file), b"")
    for head, equal in (("psnr", False), ("visual", True)):
        shown, without = (np.asarray(calotype.decode(data, head=head)) for data in (filtered_file, plain))
        assert np.array_equal(shown, without) == equal


def test_tiles_and_regions(photo: Image.Image, photo_model: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tile has weights of its own; a region shows what the whole picture shows."""
    monkeypatch.setattr("calotype.encoder.LARGEST_TILE_PX", 64)
    monkeypatch.setattr("calotype.encoder.TILE_PX", 128)
    monkeypatch.setattr("calotype.decoder.WINDOW_PX", 192)
    data = calotype.encode(photo.crop((100, 100, 350, 330)), quality=100, effort=3, model=photo_model)
    whole = container.unpack(data)
    weights = postfilter.unpack(whole.postfilter, whole.header.tile_count)
    assert len(weights) == 4
    assert len({w.tobytes() for w in weights}) > 1
    shown = calotype.decode_array(data).astype(int)
    for x, y, width, height in ((101, 90, 77, 60), (0, 0, 110, 110), (200, 190, 50, 40)):
        region = (x, y, width, height)
        part = calotype.decode_array(data, region=region).astype(int)
        assert np.abs(part - shown[y : y + height, x : x + width]).max() <= 1
        assert np.abs(part - calotype.decode_array(_with(whole, b""), region=region)).any()


def test_the_chunk_is_checked_like_any_other(filtered_file: bytes) -> None:
    at = filtered_file.index(bytes(container.unpack(filtered_file).postfilter))
    for place in range(at - 2, at + 8):
        damaged = bytearray(filtered_file)
        damaged[place] ^= 1
        with pytest.raises(calotype.FormatError):
            calotype.decode(bytes(damaged))


def test_a_model_of_one_channel_filters_nothing(small_photo: Image.Image, tmp_path: Path) -> None:
    torch.manual_seed(0)
    arch = Architecture(channels=1, y_channels=16, z_channels=8, width=16, blocks=1, prior_width=16)
    path, card = tmp_path / "grey.calomodel", {"name": "grey", "version": "1", "status": "preview"}
    bundle.write(path, members(Codec(arch).eval(), card, family())[0])
    data = calotype.encode(small_photo.convert("L"), quality=50, effort=3, model=path)
    whole = container.unpack(data)
    assert whole.header.coding is not None
    assert not whole.postfilter
    assert np.array_equal(*(calotype.decode_array(d, model=path) for d in (data, _with(whole, b"\xff"))))


def test_where_it_has_no_meaning_a_chunk_is_not_even_read(filtered_file: bytes, small_photo: Image.Image) -> None:
    whole = container.unpack(filtered_file)
    assert calotype.decode(_with(whole, b"\xff"), preview=16).size == (13, 10)
    exact = container.unpack(calotype.encode(small_photo, lossless=True))
    assert psnr_db(calotype.decode(_with(exact, b"\xff")), small_photo) == np.inf
