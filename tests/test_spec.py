"""SPEC.md is enough: decoders written from it alone give what the product gives, bit by bit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import calotype
from calotype import bundle, library
from calotype.bitsback import chunk as bitsback
from calotype.bitsback.model import Model
from calotype.bundle import Bundle
from calotype.codec import level_of
from calotype.hyper import Context
from calotype.learn.bitsback.nets import Architecture as Form
from calotype.learn.config import Architecture
from calotype.learn.export import family, members, with_context
from calotype.learn.model import Codec
from calotype.learn.prior import SIGMA_COUNT
from calotype.prior import Latents
from calotype.textbook import chunk as textbook
from calotype.textbook.model import Model as TextbookModel
from calotype.textbook.model import bundle_of

sys.path.insert(0, str(Path(__file__).parent))

import reference_decoder
import reference_small
from golden.make import FOLDER, digest
from test_bitsback import DEEP, FLAT, _bundle

GOLDEN: dict[str, str] = json.loads((FOLDER / "latents.json").read_text())
TWO_STEPS = Architecture(
    y_channels=32, z_channels=16, width=16, blocks=1, prior_width=32, context_blocks=1, context_steps=2
)


@pytest.fixture(scope="module")
def reference(photo_model: Bundle) -> reference_decoder.Model:
    return reference_decoder.Model(photo_model.path)


def _equal(data: bytes, reference: reference_decoder.Model, tiles: list[Latents]) -> None:
    for (z, y8), tile in zip(reference_decoder.decode(data, reference), tiles, strict=True):
        np.testing.assert_array_equal(z, tile.z)
        np.testing.assert_array_equal(y8, tile.y8)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_latents(reference: reference_decoder.Model, name: str) -> None:
    tiles = reference_decoder.decode((FOLDER / f"{name}.calo").read_bytes(), reference)
    assert digest([Latents(z.astype(np.int16), y8.astype(np.int32)) for z, y8 in tiles]) == GOLDEN[name]


@pytest.mark.parametrize(
    ("mode", "size", "quality"),
    [("RGB", (70, 33), 0), ("RGBA", (64, 64), 35), ("L", (17, 130), 80), ("RGB", (1, 1), 100)],
)
def test_fresh_files(
    photo: Image.Image, reference: reference_decoder.Model, mode: str, size: tuple[int, int], quality: int
) -> None:
    picture = photo.resize(size).convert(mode)
    picture.info["xmp"] = b"<x:xmpmeta/>"
    data = calotype.encode(picture, quality=quality)
    _equal(data, reference, calotype.latents(data))


@pytest.mark.parametrize("context", [False, True], ids=["one part of z", "three parts of z"])
def test_two_steps(photo: Image.Image, rng: np.random.Generator, tmp_path: Path, *, context: bool) -> None:
    """A model of random weights, so that no number is likely."""
    torch.manual_seed(0)
    codec = Codec(TWO_STEPS)
    for p in codec.parameters():
        p.data += 0.1 * torch.randn_like(p)
    codec.h_a.head.bias.data = 100 * torch.randn(TWO_STEPS.z_channels)
    path, card = tmp_path / "two.calomodel", {"name": "two", "version": "1", "status": "preview"}
    content = members(codec.eval(), card, family())[0]
    if context:
        weight, table = (
            rng.integers(-128, 128, (2, TWO_STEPS.z_channels)),
            rng.integers(0, SIGMA_COUNT, (SIGMA_COUNT, 32)),
        )
        content = with_context(content, Context(weight.astype(np.int8), table.astype(np.uint8)))
    bundle.write(path, content)
    data = calotype.encode(photo.crop((0, 0, 190, 270)), quality=70, model=path)
    _equal(data, reference_decoder.Model(path), calotype.latents(data, model=path))


@pytest.mark.parametrize("arch", [FLAT, DEEP], ids=["flat", "two layers"])
def test_bits_back(tmp_path: Path, rng: np.random.Generator, arch: Form) -> None:
    model = _bundle(arch, tmp_path)
    images = rng.integers(0, 256, (4, *model.form.image), np.uint8)
    packed = bitsback.encode(Model(model), images)
    np.testing.assert_array_equal(reference_small.BitsBack(tmp_path / "tiny.calomodel").decode(packed, 4), images)


@pytest.mark.parametrize("level", [0, 7, 128, 213, 255])
def test_textbook_chunk(digits_model: Path, rng: np.random.Generator, level: int) -> None:
    pca = bundle_of(library.find_any(digits_model))
    symbols = rng.integers(-9, 10, (5, pca.latents)).astype(np.int32)
    symbols[2, ::3] = 32767
    words = textbook.pack_symbols(pca, symbols, level)
    reference = reference_small.Textbook(digits_model)
    np.testing.assert_array_equal(reference.decode_chunk(bytes([level]) + words, 5), symbols)


def test_textbook_file(digits_model: Path) -> None:
    pca = bundle_of(library.find_any(digits_model))
    image = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    data = calotype.encode(image, model=pca, quality=60)
    symbols = textbook.quantise(TextbookModel(pca).analyse(image[None, :, :, None]), level_of(60))
    np.testing.assert_array_equal(reference_small.Textbook(digits_model).decode_file(data), symbols)
