"""Pictures of several bands: files of them, and the models that code them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import calotype
from calotype import bands
from calotype.cli import app
from calotype.dataset import Dataset
from calotype.errors import InputError


def _stack(rng: np.random.Generator, dtype: type, count: int = 5) -> np.ndarray:
    return rng.integers(0, np.iinfo(dtype).max, (20, 30, count)).astype(dtype)


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_go_into_files_and_come_back(rng: np.random.Generator, suffix: str, dtype: type) -> None:
    samples = _stack(rng, dtype)
    back = bands.read(io.BytesIO(bands.serialise(samples, suffix)))
    assert back is not None
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, samples)


def test_arrays_of_other_orders_are_read(rng: np.random.Generator) -> None:
    samples = _stack(rng, np.uint16)
    for array in (np.asfortranarray(samples), samples.astype(">u2")):
        file = io.BytesIO()
        np.save(file, array)
        file.seek(0)
        np.testing.assert_array_equal(bands.read(file), samples)


def test_other_files_hold_no_bands(rng: np.random.Generator) -> None:
    for kind, mode, pages in (("PNG", "L", 1), ("TIFF", "L", 1), ("TIFF", "RGB", 2), ("TIFF", "L", 17)):
        image, file = Image.new(mode, (8, 8)), io.BytesIO()
        image.save(file, kind, **({"save_all": True, "append_images": [image] * (pages - 1)} if pages > 1 else {}))
        file.seek(0)
        assert bands.read(file) is None
        assert file.tell() == 0


@pytest.mark.parametrize("array", [np.zeros((4, 4, 17), np.uint8), np.zeros((4, 4, 3)), np.zeros(5, np.uint8)])
def test_arrays_that_are_no_pictures_are_refused(array: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, array)
    file.seek(0)
    with pytest.raises(InputError, match="give uint8 or uint16"):
        bands.read(file)


@pytest.mark.parametrize("damage", ["cut", "huge", "object", "text"])
def test_damaged_arrays_are_refused(rng: np.random.Generator, damage: str) -> None:
    whole = bands.serialise(_stack(rng, np.uint8), ".npy")
    changed = {
        "cut": whole[:-1],
        "huge": whole.replace(b"(20, 30, 5)", b"(1<<40, 30)").replace(b"1<<40", b"99999"),
        "object": whole.replace(b"'|u1'", b"'|O8'"),
        "text": whole[:10] + b"?" * (len(whole) - 10),
    }[damage]
    with pytest.raises(InputError, match="cannot be read"):
        bands.read(io.BytesIO(changed))


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_bands_are_stored_without_loss_from_the_command_line(
    tmp_path: Path, rng: np.random.Generator, suffix: str
) -> None:
    samples = _stack(rng, np.uint16)
    source, coded, restored = (tmp_path / name for name in (f"a{suffix}", "a.calo", f"b{suffix}"))
    source.write_bytes(bands.serialise(samples, suffix))
    runner = CliRunner()
    done = runner.invoke(app, ["encode", str(source), str(coded), "--lossless", "--verify"])
    assert done.exit_code == 0, done.output
    assert runner.invoke(app, ["decode", str(coded), str(restored)]).exit_code == 0
    np.testing.assert_array_equal(bands.read(io.BytesIO(restored.read_bytes())), samples)
    np.testing.assert_array_equal(calotype.decode_array(coded.read_bytes()), samples)
    refused = runner.invoke(app, ["decode", str(coded), str(tmp_path / "b.png")])
    assert refused.exit_code == 1
    assert ".npy or .tif" in refused.output
    assert not (tmp_path / "b.png").exists()


def test_bands_are_never_taken_for_alpha(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "a.npy").write_bytes(bands.serialise(_stack(rng, np.uint8, 4), ".npy"))
    done = CliRunner().invoke(app, ["encode", str(tmp_path / "a.npy")])
    assert done.exit_code == 1
    assert "4 bands; the model photo codes 3" in done.output


def test_pages_are_no_colours_unless_a_model_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    source = tmp_path / "a.tif"
    source.write_bytes(bands.serialise(_stack(rng, np.uint8, 3), ".tif"))
    refused = CliRunner().invoke(app, ["encode", str(source)])
    assert refused.exit_code == 1
    assert "holds 3 pictures" in refused.output
    done = CliRunner().invoke(app, ["encode", str(source), "-m", "photo"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_bands_are_packed_and_come_back(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    (tmp_path / "stacks").mkdir()
    stacks = {name: _stack(rng, np.uint16, 5) for name in ("a", "b")}
    for name, samples in stacks.items():
        (tmp_path / "stacks" / f"{name}.{suffix}").write_bytes(bands.serialise(samples, f".{suffix}"))
    packed, out = str(tmp_path / "s.caloset"), tmp_path / "out"
    runner = CliRunner()
    done = runner.invoke(app, ["pack", str(tmp_path / "stacks"), packed, "--lossless"])
    assert done.exit_code == 0, done.output
    assert runner.invoke(app, ["unpack", packed, str(out), "--format", suffix]).exit_code == 0
    assert runner.invoke(app, ["extract", packed, f"b.{suffix}", "-o", str(tmp_path / "one.npy")]).exit_code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), stacks["b"])
    for name, samples in stacks.items():
        np.testing.assert_array_equal(bands.read(io.BytesIO((out / f"{name}.{suffix}").read_bytes())), samples)
    items = {Path(name).stem: item for name, (item, _) in zip(Dataset(packed).names, Dataset(packed), strict=True)}
    np.testing.assert_array_equal(items["a"].numpy(), stacks["a"].transpose(2, 0, 1))
    refused = runner.invoke(app, ["extract", packed, f"a.{suffix}", "-o", str(tmp_path / "one.png")])
    assert refused.exit_code == 1
    assert ".npy or .tif" in str(refused.exception)


def test_bands_are_not_packed_by_a_model_for_others(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "a.npy").write_bytes(bands.serialise(_stack(rng, np.uint8, 4), ".npy"))
    done = CliRunner().invoke(app, ["pack", str(tmp_path / "stacks"), str(tmp_path / "s.caloset")])
    assert done.exit_code == 1
    assert "4 bands; the model photo codes 3" in done.output
