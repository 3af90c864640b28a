"""Textbook models: the reading side. Levels, tables, chunks, files, and what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import calotype
from calotype import bundle, datasets, library
from calotype.coding import PRECISION_BITS, Table
from calotype.errors import DamagedFile, InputError, InvalidModel, OptionError, UnsupportedFile
from calotype.textbook import chunk
from calotype.textbook.model import (
    KIND,
    Images,
    Model,
    TextbookBundle,
    bundle_of,
    centroids,
    coarser,
    step_of,
    values_of,
)
from calotype.textbook.sample import mosaic_of, sample
from conftest import psnr_db

LEVELS = (0, 60, 128, 200, 255)


@pytest.fixture(scope="session")
def images() -> Images:
    return datasets.load("digits").test.images


@pytest.fixture(scope="session")
def pca(tmp_path_factory: pytest.TempPathFactory) -> TextbookBundle:
    """Principal components of the digits: no training, so made in a second."""
    from calotype.learn.textbook import fit

    data, folder = datasets.load("digits"), tmp_path_factory.mktemp("pca")
    path = folder / "small.json"
    path.write_text('{"architecture": {"latents": 32}}')
    plan = fit.plan_of("pca", path, data, "pca", {})
    assert fit.fit(plan, data, folder / "run", None, lambda _: None)
    fit.to_bundle(folder / "run", data, folder / "pca.calomodel")
    return bundle_of(library.find_any(folder / "pca.calomodel"))


@pytest.fixture(scope="session")
def model(pca: TextbookBundle) -> Model:
    return Model(pca)


def _written(source: TextbookBundle, path: Path, changes: dict[str, object], **members: bytes) -> Path:
    card = json.loads(source.members["manifest.json"]) | changes
    bundle.write(path, {**source.members, "manifest.json": json.dumps(card).encode(), **members})
    return path


# --- levels and tables ----------------------------------------------------------------------------------------------


def test_steps_fall_from_68_to_1() -> None:
    steps = [step_of(level) for level in range(256)]
    assert (steps[0], steps[-1]) == (68, 1)
    assert steps == sorted(steps, reverse=True)
    assert [step_of(255 - 42 * octave) for octave in range(7)] == [1, 2, 4, 8, 16, 32, 64]


@given(radius=st.integers(1, 300), level=st.integers(0, 255), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_coarser_tables_are_sound(radius: int, level: int, seed: int) -> None:
    q = np.random.default_rng(seed).integers(1, 1000, 2 * radius + 2).astype(np.int64)
    q[radius] += 2**PRECISION_BITS - q.sum()
    fine, step = Table(radius, q.astype(np.uint32)), step_of(level)
    table = coarser(fine, step)
    assert len(table.frequencies) == 2 * table.radius + 2
    assert table.frequencies.min() >= 1
    assert table.frequencies.sum(dtype=np.int64) == 2**PRECISION_BITS
    assert table.frequencies[-1] == fine.frequencies[-1]
    values = centroids(fine, step)
    symbols = np.arange(-table.radius, table.radius + 1)
    assert np.abs(values - symbols * step).max() <= step / 2 + 1e-3
    if step == 1:
        assert np.array_equal(table.frequencies, fine.frequencies)


# --- chunks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_a_chunk_gives_back_its_latents(model: Model, images: Images, level: int) -> None:
    pca = model.bundle
    symbols = chunk.quantise(model.analyse(images), level)
    words = chunk.pack_symbols(pca, symbols, level)
    assert np.array_equal(chunk.unpack_symbols(pca, words, level, len(images)), symbols)
    costs = pca.at_level(level)[0].cost_bits(symbols.ravel(), chunk._index(pca, len(images)))
    assert 8 * len(words) <= costs.sum() * 1.001 + 64


def test_one_model_gives_a_whole_curve(model: Model, images: Images) -> None:
    chunks = [chunk.pack_images(model, images, level) for level in LEVELS]
    sizes = [len(data) for data in chunks]
    back = [chunk.unpack_images(model, data, len(images)) for data in chunks]
    quality = [psnr_db(images, x) for x in back]
    assert sizes == sorted(sizes)
    assert quality == sorted(quality)
    assert quality[-1] > 25 > 15 > quality[0]
    assert back[0].shape == images.shape


@given(level=st.integers(0, 255), y=st.floats(-2000, 2000))
@settings(max_examples=60, deadline=None)
def test_symbols_stand_near_what_they_were_made_of(pca: TextbookBundle, level: int, y: float) -> None:
    latents = np.full((1, pca.latents), y, np.float32)
    values = values_of(pca, chunk.quantise(latents, level), level)
    assert np.abs(values - latents).max() <= step_of(level) + 0.51


def test_values_beyond_a_table_escape(pca: TextbookBundle) -> None:
    symbols = np.zeros((3, pca.latents), np.int32)
    symbols[1] = [-32767, 32767] * (pca.latents // 2)
    words = chunk.pack_symbols(pca, symbols, 255)
    assert np.array_equal(chunk.unpack_symbols(pca, words, 255, 3), symbols)


@given(data=st.binary(max_size=200), count=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_any_bytes_decode_or_are_refused(model: Model, data: bytes, count: int) -> None:
    with suppress(DamagedFile):
        assert len(chunk.unpack_images(model, data, count)) == count


def test_a_chunk_of_other_length_is_refused(model: Model, images: Images) -> None:
    """As far as words can tell: what is cut off them is found by the checksum of the archive's row."""
    data = chunk.pack_images(model, images[:50], 128)
    for broken, count in ((b"", 50), (data[:-1], 50), (data, 49), (data, 0)):
        with pytest.raises(DamagedFile):
            chunk.unpack_images(model, broken, count)


@pytest.mark.parametrize("shape", [(5, 8, 8, 3), (5, 9, 8, 1), (0, 8, 8, 1), (8, 8, 1)])
def test_other_images_are_refused(model: Model, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="8x8"):
        chunk.pack_images(model, np.zeros(shape, np.uint8), 100)


# --- files of one image ---------------------------------------------------------------------------------------------


def test_an_image_as_a_file(pca: TextbookBundle, images: Images) -> None:
    small, large = (calotype.encode(images[3], quality=quality, model=pca) for quality in (30, 90))
    assert len(small) < len(large) < 100
    assert psnr_db(calotype.decode_array(large, model=pca), images[3, :, :, 0]) > 23
    assert calotype.decode(small, model=pca.path).mode == "L"
    info = calotype.info(large)
    assert (info.width, info.level, info.model_id) == (8, 230, pca.id.hex())


def test_grey_may_be_stored_as_colour(pca: TextbookBundle, images: Images) -> None:
    grey = images[3]
    assert calotype.encode(grey.repeat(3, axis=2), model=pca) == calotype.encode(grey, model=pca)


def test_the_file_of_a_small_image_has_no_tiles_of_latents(pca: TextbookBundle, images: Images) -> None:
    with pytest.raises(InputError, match="small images"):
        calotype.latents(calotype.encode(images[3], model=pca), model=pca)


def test_rates_are_searched_for(pca: TextbookBundle, images: Images) -> None:
    assert len(calotype.encode(images[3], size=60, model=pca)) <= 60
    data = calotype.encode(images[3], psnr=22, model=pca)
    assert psnr_db(calotype.decode_array(data, model=pca), images[3, :, :, 0]) >= 22
    with pytest.raises(InputError, match="smallest"):
        calotype.encode(images[3], size=10, model=pca)


def test_metadata_stays(pca: TextbookBundle, images: Images) -> None:
    image = Image.fromarray(images[0, :, :, 0])
    exif = Image.Exif()
    exif[0x010E] = "a digit"
    image.info["exif"] = exif.tobytes()
    assert calotype.decode(calotype.encode(image, model=pca), model=pca).getexif()[0x010E] == "a digit"


@pytest.mark.parametrize("picture", [np.zeros((8, 9), np.uint8), np.zeros((8, 8, 2), np.uint8), np.zeros((8, 8), "u2")])
def test_other_pictures_are_refused(pca: TextbookBundle, picture: np.ndarray) -> None:
    with pytest.raises(InputError, match="pca"):
        calotype.encode(picture, model=pca)


def test_a_file_of_another_size_is_refused(pca: TextbookBundle, images: Images, tmp_path: Path) -> None:
    data = calotype.encode(images[0], model=pca)
    other = bundle_of(bundle.read_file(_written(pca, tmp_path / "other.calomodel", {"image": [4, 16, 1]})))
    with pytest.raises(UnsupportedFile, match="16"):
        calotype.decode(data, model=other)


# --- model files ----------------------------------------------------------------------------------------------------


def test_kinds_do_not_mix(pca: TextbookBundle) -> None:
    with pytest.raises(InvalidModel, match="textbook"):
        bundle.read(pca.path)
    with pytest.raises(InvalidModel, match="textbook"):
        library.find(pca.path)
    with pytest.raises(InvalidModel, match="'photo'"):
        bundle_of(library.find_any("photo"))
    with pytest.raises(InvalidModel, match="textbook"):
        calotype.latents(np.zeros((8, 8), np.uint8), model=pca)


def test_an_id_covers_what_decoding_needs(pca: TextbookBundle, tmp_path: Path) -> None:
    same = _written(pca, tmp_path / "a.calomodel", {"note": "changed"}, **{"encoder.onnx": b"another"})
    assert bundle.read_file(same).id == pca.id
    changed = pca.members["decoder.onnx"] + b"\0"
    other = _written(pca, tmp_path / "b.calomodel", {}, **{"decoder.onnx": changed})
    assert bundle.read_file(other).id != pca.id


@pytest.mark.parametrize(
    "changes",
    [
        {"image": [8, 8]},
        {"image": [8, 8, 2]},
        {"image": [8, 1 << 30, 1]},
        {"image": [8, 8, True]},
        {"image": None},
        {"latents": 31},
        {"decoding": ["tables.u32"]},
        {"kind": "unknown"},
    ],
)
def test_bad_manifests_are_refused(pca: TextbookBundle, tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(InvalidModel):
        library.find_any(_written(pca, tmp_path / "bad.calomodel", changes))


@pytest.mark.parametrize("member", ["tables.u32", "radii.u16", "decoder.onnx", "encoder.onnx"])
def test_bad_members_are_refused(pca: TextbookBundle, tmp_path: Path, member: str) -> None:
    for raw in (b"", pca.members[member][:-1], bytes(len(pca.members[member]))):
        with pytest.raises(InvalidModel):
            library.find_any(_written(pca, tmp_path / f"bad{len(raw)}.calomodel", {}, **{member: raw}))


def test_a_quiet_table_is_refused(pca: TextbookBundle, tmp_path: Path) -> None:
    radii = np.frombuffer(pca.members["radii.u16"], "<u2") | np.uint16(bundle.QUIET)
    path = _written(pca, tmp_path / "bad.calomodel", {}, **{"radii.u16": radii.astype("<u2").tobytes()})
    with pytest.raises(InvalidModel, match="quiet"):
        library.find_any(path)


def test_a_graph_of_another_size_is_refused(pca: TextbookBundle, images: Images, tmp_path: Path) -> None:
    path = _written(pca, tmp_path / "bad.calomodel", {"image": [4, 8, 1]})
    with pytest.raises(InvalidModel, match="shapes"):
        library.find_any(path)
    model = Model(bundle_of(bundle.read_file(path)))
    with pytest.raises(InvalidModel, match="encoder"):
        chunk.pack_images(model, images[:, :4], 100)


def test_the_kind_is_written_down(pca: TextbookBundle) -> None:
    assert json.loads(pca.members["manifest.json"])["kind"] == KIND


# --- the benchmark --------------------------------------------------------------------------------------------------


def test_the_table_of_a_data_set(pca: TextbookBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calotype.bench import codecs, small
    from calotype.cli.bench_small import bench_small

    monkeypatch.setattr(small, "LOSSY", (replace(codecs.WEBP, qualities=(0, 0.5, 1)),))
    monkeypatch.setattr(small, "SINGLE_IMAGES", 5)
    bench_small([Path("digits")], tmp_path, [str(pca.path)], None)
    page = (tmp_path / "small.md").read_text()
    assert page.count("| pca |") == len(small.LEVELS) + 1
    for name in ("WebP, mosaic", "WebP, files", "PNG, mosaic", "xz, one block"):
        assert f"| {name} |" in page
    assert len((tmp_path / "small.csv").read_text().splitlines()) == 1 + len(small.LEVELS) + 2 * 3 + 2 * 2 + 4
    assert "![Bytes and PSNR](small.svg)" in page
    assert (tmp_path / "small.svg").read_bytes().startswith(b"<?xml")
    with pytest.raises(OptionError, match="named"):
        bench_small([Path("digits")], tmp_path, [str(pca.path)] * 2, None)


def test_a_lossless_model_has_one_row(tmp_path: Path) -> None:
    from calotype.bench import small, small_plot
    from calotype.learn.bitsback.export import members
    from calotype.learn.bitsback.nets import Architecture, LatentModel
    from calotype.small import small_model

    card = {"name": "flat", "version": "1", "status": "preview"}
    path = tmp_path / "flat.calomodel"
    bundle.write(path, members(LatentModel(Architecture(image=(8, 8, 1), latents=(3,), width=9)), card))
    images = datasets.load_test("digits").images[:20]
    ((row,),) = (job() for job in small.jobs(images, [small_model(library.open_path(path))])[:1])
    assert (row.codec, row.psnr_db, row.ssim) == ("flat", None, None)
    assert row.bpd > 1
    assert row.image_bytes_with_model == pytest.approx(row.image_bytes + path.stat().st_size / 20)
    (axes,) = small_plot.draw({"flat": [row], "x": [replace(row, psnr_db=20.0)]}).axes
    assert [text.get_text() for text in axes.texts] == ["flat, no loss"]


# --- samples --------------------------------------------------------------------------------------------------------


def test_samples_are_drawn_from_the_tables(model: Model, images: Images) -> None:
    drawn = sample(model, 500, seed=3)
    assert drawn.shape == (500, 8, 8, 1)
    assert np.array_equal(drawn, sample(model, 500, seed=3))
    assert not np.array_equal(drawn, sample(model, 500, seed=4))
    assert np.abs(drawn.mean(0) - images.mean(0)).mean() < 15


def test_a_mosaic_has_a_place_for_each(images: Images) -> None:
    sheet = mosaic_of(images[:7])
    assert sheet.shape == (24, 24, 1)
    assert np.array_equal(sheet[8:16, :8], images[3])
    assert not sheet[16:, 8:].any()
