"""Sets of small images of one size: MNIST, Fashion-MNIST, scikit-learn's digits, or a folder of pictures.

What is not at hand is downloaded once and checked by its hash; scikit-learn's digits need no network. Needs the extra
"learn" of the package, but no torch.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calotype.errors import InputError, OptionError

Images = NDArray[np.uint8]
Labels = NDArray[np.uint8]

VARIABLE = "CALOTYPE_DATA"
VALIDATION_SHARE = 12
"""One training image in so many is kept for validation."""
MAX_SIDE_PX = 256
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
"""Pictures that a folder may hold, by Pillow's mode, and what they become."""
_IDX_MAGICS = (b"\0\0\x08\x01", b"\0\0\x08\x03")
"""Bytes, of one axis or three."""
_MAX_IDX_BYTES = 1 << 30
_ORDER_SEED = 1


@dataclass(frozen=True)
class Split:
    """Images (n, h, w, c), uint8 with c 1 or 3, and their labels (n,), zeros where there are none."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """A set of images in three parts that share none.

    Attributes:
        name: What it is called.
        licence: Under which terms it comes, "not stated" if nobody said.
    """

    name: str
    licence: str
    train: Split
    validation: Split
    test: Split

    def sha256(self) -> str:
        """Of the images that a model learns from and is judged by, in hexadecimal."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation):
            digest.update(repr(part.images.shape).encode() + part.images.tobytes())
        return digest.hexdigest()


def folds(data: Dataset, count: int) -> Iterator[Dataset]:
    """The data set `count` times: each image that is not for the test is once in the validation part.

    Raises:
        OptionError: If there are fewer images than folds.
    """
    parts = (data.train, data.validation)
    images, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    if len(images) < count:
        raise OptionError(f"--folds {count}: {data.name} has {len(images)} images to learn from and to judge by")
    pieces = np.array_split(np.random.default_rng(_ORDER_SEED).permutation(len(images)), count)
    for fold, held_out in enumerate(pieces):
        kept = np.concatenate(pieces[:fold] + pieces[fold + 1 :])
        train, validation = (Split(images[chosen], labels[chosen]) for chosen in (kept, held_out))
        yield replace(data, train=train, validation=validation)


@dataclass(frozen=True)
class _Remote:
    """Files in IDX format that are published at a URL, with the SHA-256 of each."""

    url: str
    licence: str
    sha256: dict[str, str]


_REMOTE = {
    "mnist": _Remote(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "CC BY-SA 3.0",
        {
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion-mnist": _Remote(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "MIT",
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
}
DIGITS = "digits"
NAMES = (DIGITS, *_REMOTE)
"""Data sets that go by a name; anything else is a folder."""


def load(name: str | Path, data: Path | None = None, size_px: int | None = None) -> Dataset:
    """A data set by name, or the pictures of a folder.

    Args:
        name: One of `NAMES`, or a folder.
        data: Folder with the IDX files of a named set; `$CALOTYPE_DATA`, or a download, if not given.
        size_px: Resize the pictures of a folder to squares of this side.

    Raises:
        InputError: If there is no such data, or it is not what it should be.
        OptionError: If an option does not go with the data.
    """
    name = str(name)
    if data is not None and name not in _REMOTE:
        raise OptionError(f"a folder of IDX files goes with {' and '.join(_REMOTE)}, not with {name}")
    if name not in NAMES:
        return _folder(Path(name), size_px)
    if size_px is not None:
        raise OptionError(f"images of {name} have one size: resizing is for folders of pictures")
    if name == DIGITS:
        return _digits()
    read = partial(_read_part, name, data)
    return Dataset(name, _REMOTE[name].licence, *_held_out(read("train")), read("t10k"))


def load_test(name: str | Path, data: Path | None = None, size_px: int | None = None) -> Split:
    """The test part of a data set alone; arguments and errors as of `load`."""
    return _read_part(str(name), data, "t10k") if str(name) in _REMOTE else load(name, data, size_px).test


@contextmanager
def _from_extra(name: str) -> Generator[None]:
    """For an import of what not every installation has."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise OptionError(f"the data set {name} needs {error.name}: pip install 'calotype[learn]'") from error


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of bytes, gzipped or not: images (n, h, w) or labels (n,).

    Raises:
        InputError: If it is something else, or cut.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            return _idx_values(stream, path)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _idx_values(stream: gzip.GzipFile | BinaryIO, path: Path) -> NDArray[np.uint8]:
    """The header first, then just what it declares, and a byte more to see whether the file ends there."""
    magic = stream.read(4)
    rank = magic[-1] if magic in _IDX_MAGICS else 0
    axes = stream.read(4 * rank)
    if not rank or len(axes) < 4 * rank:
        raise InputError(f"{path}: not an IDX file of bytes with one or three axes")
    shape = struct.unpack(f">{rank}I", axes)
    declared = " x ".join(map(str, shape))
    if math.prod(shape) > _MAX_IDX_BYTES:
        raise InputError(f"{path}: declares {declared} values; at most {_MAX_IDX_BYTES} are read")
    raw = stream.read(math.prod(shape) + 1)
    if len(raw) != math.prod(shape):
        count = "more" if len(raw) > math.prod(shape) else f"{len(raw)}"
        raise InputError(f"{path}: {count} values where the file says {declared}")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _read_part(name: str, data: Path | None, part: str) -> Split:
    images = read_idx(_idx_path(name, data, f"{part}-images-idx3-ubyte.gz"))
    labels = read_idx(_idx_path(name, data, f"{part}-labels-idx1-ubyte.gz"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise InputError(f"{name}: {part} has images of shape {images.shape} and labels of shape {labels.shape}")
    return Split(images[..., None], labels)


def _idx_path(name: str, data: Path | None, file: str) -> Path:
    """Where a file of a named set is: in the folder that was given, or one of its name in it; else in the cache."""
    chosen = data or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if chosen is not None:
        places = [folder / stem for folder in (chosen / name, chosen) for stem in (file, file.removesuffix(".gz"))]
        for place in places:
            if place.is_file():
                _check_whose(name, place)
                return place
        raise InputError(f"{chosen}: no {file} there or in {chosen / name}")
    with _from_extra(name):
        import pooch
    remote = _REMOTE[name]
    folder = pooch.os_cache("calotype") / name
    try:
        return Path(pooch.retrieve(remote.url + file, f"sha256:{remote.sha256[file]}", file, folder))
    except (OSError, ValueError) as error:
        raise InputError(f"{remote.url}{file}: cannot be had: {error}; give a folder that has it by --data") from error


def _check_whose(name: str, place: Path) -> None:
    """Refuse a file of another named set: all of them have the same file names."""
    for other, remote in _REMOTE.items():
        published = remote.sha256.get(place.name)
        if other != name and (
            place.parent.resolve().name == other
            or (published and hashlib.sha256(place.read_bytes()).hexdigest() == published)
        ):
            raise InputError(f"{place}: is of {other}, not of {name}; give {name}'s folder by --data or ${VARIABLE}")


def _digits() -> Dataset:
    with _from_extra(DIGITS):
        from sklearn.datasets import load_digits
    found = load_digits()
    images = np.floor(found.images * (255 / 16) + 0.5).astype(np.uint8)[..., None]  # pyright: ignore[reportAttributeAccessIssue]
    labels = found.target.astype(np.uint8)  # pyright: ignore[reportAttributeAccessIssue]
    return _in_three(DIGITS, "CC BY 4.0", Split(images, labels))


def _folder(folder: Path, size_px: int | None) -> Dataset:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, and none of the data sets {', '.join(NAMES)}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in Image.registered_extensions())
    if len(paths) < 2 * VALIDATION_SHARE:
        raise InputError(f"{folder}: {len(paths)} pictures; a data set needs {2 * VALIDATION_SHARE}")
    images = _of_one_size(paths, size_px)
    return _in_three(folder.resolve().name, "not stated", Split(images, np.zeros(len(images), np.uint8)))


def _of_one_size(paths: Sequence[Path], size_px: int | None) -> Images:
    """Pictures (n, h, w, c), grey if all are."""
    found: list[Image.Image] = []
    for path in paths:
        try:
            with Image.open(path) as image:
                plain = _plain(image, path)
                small = plain if size_px is None else plain.resize((size_px, size_px), Image.Resampling.LANCZOS)
                found.append(small)
        except (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        if found[-1].size != found[0].size or max(found[0].size) > MAX_SIDE_PX:
            sizes = "x".join(map(str, found[0].size)), "x".join(map(str, found[-1].size))
            raise InputError(f"{path}: {sizes[1]} pixels after {sizes[0]}; give --resize, at most {MAX_SIDE_PX}")
    mode = "L" if all(image.mode == "L" for image in found) else "RGB"
    images = np.stack([np.asarray(image.convert(mode)) for image in found])
    return images.reshape(*images.shape[:3], -1)


def _plain(image: Image.Image, path: Path) -> Image.Image:
    """A picture as L or RGB."""
    if image.mode not in _MODES or "transparency" in image.info:
        clear = ", transparent" if "transparency" in image.info else ""
        raise InputError(f"{path}: is of mode {image.mode}{clear}; convert it to 8-bit grey or RGB without alpha first")
    return image.convert(_MODES[image.mode])


def _in_three(name: str, licence: str, whole: Split) -> Dataset:
    """Shuffled, always alike; a fifth is kept for the test."""
    order = np.random.default_rng(_ORDER_SEED).permutation(len(whole))
    tested, learned = np.split(order, [len(order) // 5])
    parts = [Split(whole.images[chosen], whole.labels[chosen]) for chosen in (learned, tested)]
    return Dataset(name, licence, *_held_out(parts[0]), parts[1])


def _held_out(train: Split) -> tuple[Split, Split]:
    """What is learned from, and the last twelfth, to judge by."""
    kept = len(train) - len(train) // VALIDATION_SHARE
    return Split(train.images[:kept], train.labels[:kept]), Split(train.images[kept:], train.labels[kept:])
