"""What is fuzzed. Each target takes any bytes and ends in a result or in an error of calotype's own tree."""

from __future__ import annotations

import io
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image, UnidentifiedImageError

import calotype
import calotype.pillow
from calotype import bundle, codec, library
from calotype.archive import Archive
from calotype.bundle import Bundle
from calotype.errors import CalotypeError
from calotype.header import unpack_header
from calotype.small import image_of, small_model

CORPUS = Path(__file__).parent / "corpus"
MAX_PIXELS = 1 << 16
"""A fuzzer that decodes large pictures learns nothing more; what is declared is checked before."""
LEAST_S, LEAST_BYTES = 2.0, 400 << 20
SMALL_PX = 8 * 8
"""Pixels of an image of the corpus' models of small images."""
S_PER_PIXEL, BYTES_PER_PIXEL = 5 * 2e-6, 16
"""Five times what a picture of this model takes to decode, and what its pixels may take of memory."""

Result = list[tuple[str, bytes]]
Target = Callable[[bytes], Result]
FIRST = {"container": "learned.calo", "bundle": "tiny.calomodel", "archive": "all.caloset", "pillow": "alpha.calo"}


class TooMuch(Exception):  # noqa: N818
    """An input took more time or memory than its declared pixels allow."""


def tiny() -> Bundle:
    """The model of the corpus' pictures; vetted once."""
    model = library.open_path(CORPUS / "tiny.calomodel")
    assert isinstance(model, Bundle)
    return model


def _as_result(image: Image.Image) -> Result:
    metadata = [(key, image.info[key]) for key in ("exif", "icc_profile", "xmp") if key in image.info]
    return [(f"{image.mode} {image.size}", image.tobytes()), *metadata]


def decode(data: bytes) -> Result:
    """The container, and the picture inside; before that a region and previews of it."""
    for view in ({"region": (1000, 1, 20, 2)}, {"region": (3, 2, 4, 3)}, {"preview": 4}, {"preview": 16}):
        with suppress(CalotypeError):
            calotype.decode(data, **view, max_pixels=MAX_PIXELS, model=tiny())
    return _as_result(calotype.decode(data, max_pixels=MAX_PIXELS, model=tiny()))


def open_with_pillow(data: bytes) -> Result:
    """The same by `Image.open`; its errors are Pillow's."""
    here = {"CALOTYPE_MODELS": str(CORPUS)}
    with patch.dict(os.environ, here), Image.open(io.BytesIO(data), formats=["CALO"]) as image:
        if image.width * image.height > MAX_PIXELS:
            return []
        image.load()
        return _as_result(image)


def open_model(data: bytes) -> Result:
    """A model file of any kind, vetted, and run once on a picture of its own size."""
    model = library.vetted(bundle.read_file(Path("fuzz.calomodel"), data))
    if not isinstance(model, Bundle):
        network = small_model(model)
        return [("small", np.zeros(image_of(network), np.uint8).tobytes())]
    learned = (CORPUS / "learned.calo").read_bytes()
    return _as_result(calotype.decode(learned, model=model))


@contextmanager
def _archive(data: bytes) -> Generator[Archive]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.caloset"
        path.write_bytes(data)
        with Archive(path, tiny()) as archive:
            yield archive


def open_archive(data: bytes) -> Result:
    """All images of an archive."""
    with _archive(data) as archive:
        return [part for entry in archive.entries for part in [(entry.name, b""), *_as_result(archive.image(entry))]]


TARGETS: dict[str, Target] = {
    "container": decode,
    "bundle": open_model,
    "archive": open_archive,
    "pillow": open_with_pillow,
}
REFUSALS: dict[str, tuple[type[Exception], ...]] = {
    "pillow": (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError)
}


def declared_pixels(name: str, data: bytes) -> int:
    """What the header of a file says, or none; of an archive, what its rows say that they hold of small images."""
    with suppress(CalotypeError):
        if name == "archive":
            with _archive(data) as archive:
                return len(archive) * SMALL_PX
        header = unpack_header(data)
        return header.width * header.height
    return 0


def run(name: str, data: bytes) -> Result | None:
    """Run a target; None if it refused the bytes.

    Raises:
        TooMuch: If it took more than its declared pixels allow.
        Exception: Whatever else comes is a bug.
    """
    started_s, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = None
    with warnings.catch_warnings(), suppress(*REFUSALS.get(name, (CalotypeError,))):
        warnings.simplefilter("ignore")
        result = TARGETS[name](data)
    _check_costs(
        name, data, time.process_time() - started_s, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    )
    return result


def _check_costs(name: str, data: bytes, taken_s: float, grown_bytes: int) -> None:
    pixels = min(declared_pixels(name, data), codec.MAX_PIXELS)
    if taken_s > LEAST_S + S_PER_PIXEL * pixels or grown_bytes > LEAST_BYTES + BYTES_PER_PIXEL * pixels:
        raise TooMuch(f"{taken_s:.1f} s and {grown_bytes >> 20} MiB for {pixels} pixels")


calotype.pillow.register()
