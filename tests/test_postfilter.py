"""What a file says of the error that synthesis leaves, from the weights to the picture."""

from __future__ import annotations

import hashlib
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
from calotype import bundle, container, postfilter
from calotype.bundle import Bundle
from calotype.codec import runtime_of
from calotype.container import Container
from calotype.errors import DamagedFile, InputError
from calotype.learn.config import Architecture
from calotype.learn.export import family, members
from calotype.learn.model import Codec
from calotype.postfilter import NESTED, NO_WEIGHTS
from calotype.runtime import Runtime
from calotype.tiling import Box
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
    st.data(),
)
def test_the_fit_sees_the_inputs_of_the_spec(x: np.ndarray, data: st.DataObject) -> None:
    """What modes make of the inputs that are counted is what the filter adds."""
    height, width = x.shape[1:]
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    weights = np.array([9, -7, 5, 3, -20], np.int8)
    kernel = np.tensordot(weights.astype(np.float32), postfilter.modes()[:5], 1)
    wanted = (reference_decoder.filtered(x, weights, MODES) - x)[(slice(None), *box.slices())]
    for rows, inputs in postfilter.inputs_of(x, box):
        np.testing.assert_allclose((kernel @ inputs).reshape(3, -1, box.width), wanted[:, rows], atol=1e-5)


def test_some_rows_tell_enough(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x_hat, box = rng.random((3, 400, 50), np.float32) - 0.5, Box(0, 0, 400, 50)
    x = np.float32(0.9) * x_hat
    every = postfilter.moments(x, x_hat, box)
    monkeypatch.setattr(postfilter, "_ENOUGH_PIXELS", 10_000)
    for some, all_of_it in zip(postfilter.moments(x, x_hat, box), every, strict=True):
        assert not np.array_equal(some, all_of_it)
        assert np.abs(some - all_of_it).max() < 0.1 * np.abs(all_of_it).max()


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
    data = calotype.encode(small_photo, psnr=most + 0.02, effort=3)
    assert psnr_db(small_photo, calotype.decode(data)) >= most + 0.02


def test_the_fit_finds_what_was_missed(runtime: Runtime, rng: np.random.Generator) -> None:
    """Of a picture that lacks what some weights say, these; inside the box alone."""
    x_hat, box = rng.random((3, 70, 90), np.float32) - 0.5, Box(3, 5, 60, 80)
    wanted = rng.integers(-9, 10, 8).astype(np.int8)
    x = rng.random(x_hat.shape, np.float32)
    x[(slice(None), *box.slices())] = runtime.postfilter(x_hat, box, wanted)
    found = postfilter.fit(x, x_hat, box, 1e9)
    np.testing.assert_allclose(found[:8], wanted, atol=1)
    assert np.abs(runtime.postfilter(x_hat, box, found) - x[(slice(None), *box.slices())]).max() < 0.1
    assert postfilter.fit(x, x_hat, box, 0.0) is NO_WEIGHTS


def test_a_filtered_file_is_nearer_to_the_picture(small_photo: Image.Image, filtered_file: bytes) -> None:
    """A reader that does not know the chunk shows the same picture with a little more error."""
    whole = container.unpack(filtered_file)
    assert len(whole.postfilter) > 4
    plain = _with(whole, b"")
    assert len(plain) == len(filtered_file) - len(whole.postfilter) - 6
    found, without = (psnr_db(small_photo, calotype.decode(data)) for data in (filtered_file, plain))
    assert found > without + 0.02


@pytest.mark.parametrize("effort", [1, 2])
def test_quick_efforts_filter_nothing(small_photo: Image.Image, effort: int) -> None:
    assert not container.unpack(calotype.encode(small_photo, effort=effort)).postfilter


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
