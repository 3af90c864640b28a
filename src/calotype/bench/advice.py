"""What a folder of pictures would take by several codecs at equal PSNR, and whether a model of its own may pay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

import calotype
from calotype.bench.codecs import AVIF, AVIF_PSNR, JPEG_OPTIMISED, JPEG_XL, WEBP_SLOWEST, Codec
from calotype.bench.metrics import psnr_db
from calotype.codec import level_of, runtime_of
from calotype.encoder import PictureCoder
from calotype.errors import InputError
from calotype.library import find
from calotype.pixels import EXACT_DB, from_image

CROP_PX = 512
"""Of larger pictures the middle is coded."""
TOP_QUALITY = 99
"""100 is another, lossless mode of some codecs."""
GAIN = (0.18, 0.36)
"""Share of the bits of `photo` 0.6.0 that a model from it saved: least and most of three domains (docs/own.md)."""
MODEL_BYTES = 9_900_000
"""Of such a model."""


@dataclass(frozen=True)
class Row:
    """A codec at the PSNR of `photo`, picture by picture.

    Attributes:
        codec: What the table calls it.
        pictures: On how many pictures of the sample it reached that PSNR.
        bpp: Bits a pixel on those.
        against_photo: Its bytes over photo's on those, less 1; below 0 it is smaller.
    """

    codec: str
    pictures: int
    bpp: float
    against_photo: float


@dataclass(frozen=True)
class Personal:
    """Whether a model of the folder's own may pay.

    Attributes:
        gain: Least and most share of photo's bytes that it may save; an assumption, from other domains.
        model_bytes: Size of such a model, about.
        break_even_pictures: From how many pictures on the savings exceed the model: with the most, and the least gain.
        verdict: `yes` if the folder has more pictures than that with the least gain, `no` if fewer than that with the
            most, else `perhaps`.
    """

    gain: tuple[float, float]
    model_bytes: int
    break_even_pictures: tuple[int, int]
    verdict: str


@dataclass(frozen=True)
class Advice:
    """What was found.

    Attributes:
        pictures: In the folder.
        sampled: How many of them were coded.
        unread: How many of the sample could not be.
        file_bytes: Of all pictures, as they lie there.
        picture_pixels: Mean of a sampled picture.
        psnr_db: Mean that photo reached.
        drawn: How many `encode` would keep without loss, for they are small or drawings.
        rows: photo first.
        personal: Whether a model of their own may pay.
    """

    pictures: int
    sampled: int
    unread: int
    file_bytes: int
    picture_pixels: float
    psnr_db: float
    drawn: int
    rows: tuple[Row, ...]
    personal: Personal


@dataclass(frozen=True)
class _Coded:
    """One picture: pixels that were coded and pixels in all, PSNR and bytes of photo, bytes of the others at it."""

    coded_pixels: int
    pixels: int
    psnr_db: float
    photo_bytes: int
    drawn: bool
    others: dict[str, float | None]


def rivals() -> tuple[Codec, ...]:
    """The codecs to compare with: JPEG XL only where its plugin is installed."""
    jpeg_xl = (JPEG_XL,) if find_spec("pillow_jxl") else ()
    return (AVIF, AVIF_PSNR, *jpeg_xl, WEBP_SLOWEST, JPEG_OPTIMISED)


def advise(paths: Sequence[Path], quality: float, sample: int) -> Iterator[Advice | None]:
    """Code a sample of the pictures: None after each, and the advice last.

    Raises:
        InputError: If none of the sample can be coded.
    """
    chosen = [paths[i] for i in sorted({round(i) for i in np.linspace(0, len(paths) - 1, min(sample, len(paths)))})]
    coded: list[_Coded] = []
    for path in chosen:
        if (picture := _read(path)) is not None:
            coded.append(_code(picture, quality))
        yield None
    if not coded:
        raise InputError(f"none of {len(chosen)} pictures can be read: {chosen[0]} and others")
    yield _judged(paths, len(chosen), coded)


def _read(path: Path) -> Image.Image | None:
    """A picture as 8-bit grey or RGB, or None if there is none."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                return None
            return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    except MemoryError:
        raise
    except Exception:  # whatever a plugin raises on broken input
        return None


def _middle(image: Image.Image) -> Image.Image:
    width, height = (min(side, CROP_PX) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _code(whole: Image.Image, quality: float) -> _Coded:
    image = _middle(whole)
    drawn = calotype.info(calotype.encode(image, quality=quality)).lossless
    coder = PictureCoder.of(from_image(image, strip=True), runtime_of(find(None)), effort=2)
    data = coder.at_level(level_of(quality))
    target_db = min(coder.psnr_db(data), EXACT_DB)
    others = {codec.name: bytes_at(codec, image, target_db) for codec in rivals()}
    return _Coded(image.width * image.height, whole.width * whole.height, target_db, len(data), drawn, others)


def bytes_at(codec: Codec, image: Image.Image, target_db: float) -> float | None:
    """Bytes of a picture at a PSNR, interpolated between neighbouring qualities; None if the codec does not reach it.

    Where even the lowest quality is better, these are its bytes.
    """
    original = np.asarray(image)

    @cache
    def at(quality: int) -> tuple[int, float]:
        data = codec.encode(image, quality)
        return len(data), psnr_db(original, np.asarray(codec.decode(data).convert(image.mode)))

    low, high = 0, TOP_QUALITY
    if at(high)[1] < target_db:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle)[1] >= target_db else (middle + 1, high)
    (size, reached_db), (less, below_db) = at(low), at(max(0, low - 1))
    if not below_db < target_db < reached_db < math.inf:
        return float(size)
    share = (target_db - below_db) / (reached_db - below_db)
    return math.exp(math.log(less) + share * math.log(size / less))


def _judged(paths: Sequence[Path], sampled: int, coded: Sequence[_Coded]) -> Advice:
    pixels = float(np.mean([c.pixels for c in coded]))
    photo = _row("calotype photo", coded, lambda c: c.photo_bytes)
    rows = [_row(codec.name, coded, lambda c, name=codec.name: c.others[name]) for codec in rivals()]
    return Advice(
        pictures=len(paths),
        sampled=sampled,
        unread=sampled - len(coded),
        file_bytes=sum(path.stat().st_size for path in paths),
        picture_pixels=pixels,
        psnr_db=float(np.mean([c.psnr_db for c in coded])),
        drawn=sum(c.drawn for c in coded),
        rows=(photo, *(row for row in rows if row.pictures)),
        personal=personal(len(paths), photo.bpp * pixels / 8),
    )


def _row(name: str, coded: Sequence[_Coded], size_of: Callable[[_Coded], float | None]) -> Row:
    found = [(c, size) for c in coded if (size := size_of(c)) is not None]
    size_bytes, photo_bytes, pixels = (
        sum(column)
        for column in zip((0, 0, 0), *((size, c.photo_bytes, c.coded_pixels) for c, size in found), strict=True)
    )
    return Row(name, len(found), 8 * size_bytes / max(pixels, 1), size_bytes / max(photo_bytes, 1) - 1)


def personal(pictures: int, photo_bytes: float) -> Personal:
    """Whether so many pictures of so many bytes by photo may pay for a model of their own."""
    most, least = (math.ceil(MODEL_BYTES / (photo_bytes * gain)) for gain in reversed(GAIN))
    verdict = "yes" if pictures >= least else "no" if pictures < most else "perhaps"
    return Personal(GAIN, MODEL_BYTES, (most, least), verdict)
