"""`calotype.dataset`: what PyTorch reads is what the archive holds, in any process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import calotype
from calotype import codec, datasets, library
from calotype.archive import Archive, ArchiveWriter
from calotype.dataset import Dataset
from calotype.errors import InputError
from calotype.small import small_model

NAMES = ["cats/a.png", "dogs/a.png", "dogs/b.png", "c.png"]


@pytest.fixture(scope="module")
def files(small_photo: Image.Image) -> dict[str, bytes]:
    """Pictures as `.calo` files of one size: two by the model, two without loss."""
    parts = [small_photo.crop((16 * i, 0, 16 * i + 100, 100)) for i in range(4)]
    codings = [{"quality": 40}, {"quality": 40}, {"lossless": True}, {"lossless": True}]
    return {n: calotype.encode(p, **coding) for n, p, coding in zip(NAMES, parts, codings, strict=True)}


@pytest.fixture
def archive(tmp_path: Path, files: dict[str, bytes]) -> Path:
    with ArchiveWriter(tmp_path / "x.caloset") as writer:
        for name, data in files.items():
            writer.add_picture(name, data)
    return tmp_path / "x.caloset"


def test_images_and_labels(archive: Path, files: dict[str, bytes]) -> None:
    dataset = Dataset(archive)
    assert dataset.names == NAMES
    assert dataset.classes == ["", "cats", "dogs"]
    for (x, label), name in zip((dataset[i] for i in range(len(dataset))), NAMES, strict=True):
        assert x.dtype == torch.uint8
        np.testing.assert_array_equal(x.permute(1, 2, 0), calotype.decode_array(files[name]))
        assert dataset.classes[label] == name.rpartition("/")[0]


def test_a_folder_and_a_transform(tmp_path: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = tmp_path / Path(name).with_suffix(".calo")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    dataset = Dataset(tmp_path, transform=lambda image: image.convert("L").size)
    assert [dataset[i] for i in range(4)] == [((100, 100), label) for label in (0, 1, 2, 2)]
    assert Dataset(tmp_path, latents=True)[1][0].shape == (448, 8, 8)


def test_latents_of_a_picture_are_those_of_its_tiles(
    archive: Path, files: dict[str, bytes], photo: Image.Image
) -> None:
    dataset = Dataset(archive, latents=True)
    np.testing.assert_array_equal(dataset[0][0], calotype.latents(files[NAMES[0]])[0].y_hat)
    with pytest.raises(InputError, match="losslessly"):
        dataset[3]
    wide = calotype.encode(photo.resize((1100, 80)), quality=20)
    whole, tiles = codec.whole_latents(wide), calotype.latents(wide)
    assert whole.shape == (448, 8, 72)
    np.testing.assert_array_equal(whole[:, :, 36:], tiles[1].y_hat)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers(archive: Path, start: str) -> None:
    dataset = Dataset(archive)
    here = [dataset[i] for i in range(4)]  # networks with threads, which no fork inherits
    loader = DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context=start, timeout=100)
    there = list(loader)
    torch.testing.assert_close(torch.cat([x for x, _ in there]), torch.stack([x for x, _ in here]))
    assert torch.cat([labels for _, labels in there]).tolist() == [1, 2, 2, 0]


def test_small_images(tmp_path: Path, digits_model: Path) -> None:
    images = datasets.load_test("digits").images[:20]
    file = library.open_path(digits_model)
    with ArchiveWriter(tmp_path / "x.caloset") as writer:
        writer.add_model(file)
        writer.add_images(small_model(file), images, [f"{i % 3}/{i}.png" for i in range(20)])
    pixels, latents = Dataset(tmp_path / "x.caloset"), Dataset(tmp_path / "x.caloset", latents=True)
    assert pixels.labels == [i % 3 for i in range(20)]
    with Archive(tmp_path / "x.caloset") as archive:
        np.testing.assert_array_equal(
            torch.stack([x[0] for x, _ in (pixels[i] for i in range(20))]), archive.arrays()[..., 0]
        )
    assert latents[0][0].dtype == torch.float32
    assert latents[0][0].ndim == 1


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        Dataset(tmp_path)
    with pytest.raises(FileNotFoundError):
        Dataset(tmp_path / "none.caloset")
