"""Pictures as people have them (Pillow, numpy) <-> samples, alpha and metadata.

What is converted: palettes and bitmaps to grey or RGB; CMYK, YCbCr, LAB and HSV to RGB by Pillow's rules (an ICC
profile for another colour space than the result's is dropped); 32-bit integers to 16 bits if they fit. Premultiplied
alpha is divided out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from calotype.container import Metadata
from calotype.errors import InputError
from calotype.header import MAX_CHANNELS, MAX_SIDE_PX

Samples = NDArray[np.uint8 | np.uint16]

_EXIF_PREFIX = b"Exif\0\0"
_STILL_FORMATS = {"MPO"}  # a photograph with views of the same moment behind it
_DIRECT = {"L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}
_BY_CONVERSION = {"CMYK", "YCbCr", "LAB", "HSV"}
_GREY = ("L", "LA")
STRIP_ROWS = 1024
EXACT_DB = 100.0
"""Stands for the PSNR of a picture that comes back as it was."""
TIFF_LAYOUT = frozenset(
    {*range(254, 260), 262, 266, 273, *range(277, 282), 284, *range(317, 326), 330, 338, 339, 347, 700, 34675}
)
"""Tags of how a TIFF stores its pixels, and of XMP and ICC, which are kept apart."""


@dataclass(frozen=True)
class Picture:
    """Samples (h, w, c), alpha (h, w, 1) of the same depth or None, and metadata."""

    samples: Samples
    alpha: Samples | None
    metadata: dict[Metadata, bytes]

    @property
    def depth(self) -> int:
        """Bits of a sample."""
        return 8 * self.samples.itemsize

    @property
    def channels(self) -> int:
        """Colour channels."""
        return self.samples.shape[2]


@dataclass(frozen=True)
class Part:
    """A rectangle of a picture: where it stands, and its samples (h, w, c), alpha last."""

    top: int
    left: int
    samples: Samples


def from_array(array: NDArray[Any], channels: int | None = None) -> Picture:
    """A picture from (h, w) or (h, w, c), uint8 or uint16.

    c is 1 to 16. Of 2 and of 4 (grey and alpha, RGBA) the last is alpha, unless a model is for that many `channels`.

    Raises:
        InputError: If the array is something else.
    """
    shaped = array[:, :, None] if array.ndim == 2 else array
    shaped = shaped.astype(shaped.dtype.newbyteorder("="), copy=False)
    if shaped.ndim != 3 or str(shaped.dtype) not in ("uint8", "uint16") or not 1 <= shaped.shape[2] <= MAX_CHANNELS:
        wanted = f"give uint8 or uint16 of (h, w) or (h, w, 1 to {MAX_CHANNELS})"
        raise InputError(f"an array of {array.dtype}{list(array.shape)}; {wanted}")
    if not all(1 <= side <= MAX_SIDE_PX for side in shaped.shape[:2]):
        raise InputError(f"a picture of {shaped.shape[1]}x{shaped.shape[0]}; sides go from 1 to {MAX_SIDE_PX} pixels")
    has_alpha = shaped.shape[2] in (2, 4) and shaped.shape[2] != channels
    samples = shaped[:, :, :-1] if has_alpha else shaped
    return Picture(samples, shaped[:, :, -1:] if has_alpha else None, {})


def _exif(image: Image.Image) -> bytes:
    """EXIF as the file had it; that of a TIFF, whose EXIF is its directory, without what lays out the pixels."""
    if "exif" in image.info:
        return bytes(image.info["exif"] or b"").removeprefix(_EXIF_PREFIX)
    exif = image.getexif()
    for tag in TIFF_LAYOUT & set(exif):
        del exif[tag]
    return exif.tobytes().removeprefix(_EXIF_PREFIX) if len(exif) else b""


def _metadata(image: Image.Image) -> dict[Metadata, bytes]:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    blocks = {
        Metadata.EXIF: _exif(image),
        Metadata.ICC: image.info.get("icc_profile") or b"",
        Metadata.XMP: xmp.encode() if isinstance(xmp, str) else xmp,
    }
    return {kind: bytes(block) for kind, block in blocks.items() if block}


def scale_transparency(image: Image.Image) -> None:
    """Give the transparent colour of a PNG the scale of its samples. To be called before they are loaded.

    Pillow stretches grey of 2 and 4 bits to 8 and cuts colour of 16 bits to 8, but leaves that colour as it was.
    """
    raw = str(image.tile[0].args) if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    colour = image.info.get("transparency")
    if isinstance(colour, int) and (bits := re.match(r"L;([24])", raw)):
        image.info["transparency"] = colour * 255 // ((1 << int(bits[1])) - 1)
    elif isinstance(colour, tuple) and ";16" in raw:
        image.info["transparency"] = tuple(sample >> 8 for sample in colour)


def _grey_16(image: Image.Image) -> Picture:
    array = np.asarray(image)
    if array.min() < 0 or array.max() > 65535:
        raise InputError(f"32-bit samples reach from {array.min()} to {array.max()}; only 0 to 65535 can be kept")
    wide, clear = array.astype(np.uint16), image.info.get("transparency")
    if clear is None:
        return from_array(wide)
    return from_array(np.stack([wide, np.where(wide == clear, 0, 65535).astype(np.uint16)], axis=2))


def _array_of(image: Image.Image) -> Samples:
    """An image's samples, taken in strips: Pillow needs as much memory again as what it converts at a time."""
    width, height = image.size
    if height <= STRIP_ROWS:
        return np.asarray(image)
    bands = len(image.getbands())
    out = np.empty((height, width, bands), np.uint8)
    for top in range(0, height, STRIP_ROWS):
        strip = np.asarray(image.crop((0, top, width, min(top + STRIP_ROWS, height))))
        out[top : top + STRIP_ROWS] = strip.reshape(-1, width, bands)
    return out


def _plain(image: Image.Image) -> Image.Image:
    """The picture in one of the modes L, LA, RGB, RGBA."""
    if "transparency" in image.info or image.mode == "PA":
        return image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    if image.mode == "P":
        colours = np.asarray(image.convert("RGB"))
        return image.convert("L" if (colours[..., :1] == colours).all() else "RGB")
    if image.mode in _BY_CONVERSION:
        return image.convert("RGB")
    if image.mode not in _DIRECT:
        raise InputError(
            f"pictures of mode {image.mode} cannot be encoded; convert to L, RGB, RGBA or 16-bit grey first"
        )
    return image if image.mode == _DIRECT[image.mode] else image.convert(_DIRECT[image.mode])


def _fits(profile: bytes, mode: str) -> bool:
    """Whether an ICC profile is for colours of the mode; bytes 16-20 of a profile name its colour space."""
    return profile[16:20] == (b"GRAY" if mode in _GREY else b"RGB ")


def from_image(image: Image.Image, *, strip: bool = False) -> Picture:
    """A picture from Pillow. `strip` drops metadata; an orientation in it is then applied.

    Raises:
        InputError: If it is animated or of a kind that cannot be encoded.
    """
    try:
        frames = getattr(image, "n_frames", 1)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise InputError(f"the picture cannot be read: {error}") from error
    if frames > 1 and image.format not in _STILL_FORMATS:
        raise InputError(f"the file holds {frames} pictures; calotype encodes one: extract it first")
    if 0 in image.size:
        raise InputError("the picture has no pixels")
    try:
        scale_transparency(image)
        image.load()  # before EXIF is read: Pillow turns a TIFF upright as it loads it
        if strip:
            image = ImageOps.exif_transpose(image)
        metadata = {} if strip else _metadata(image)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise InputError(f"the picture or its EXIF cannot be read: {error}") from error
    if image.mode == "I" or image.mode.startswith("I;16"):
        picture, mode = _grey_16(image), "L"
    else:
        plain = _plain(image)
        picture, mode = from_array(_array_of(plain)), plain.mode
    if Metadata.ICC in metadata and not _fits(metadata[Metadata.ICC], mode):
        del metadata[Metadata.ICC]
    return replace(picture, metadata=metadata)


def metadata_info(metadata: dict[Metadata, bytes]) -> dict[str, bytes]:
    """Metadata under Pillow's names for `Image.info`."""
    names = {Metadata.EXIF: "exif", Metadata.ICC: "icc_profile", Metadata.XMP: "xmp"}
    return {names[k]: _EXIF_PREFIX + block if k is Metadata.EXIF else block for k, block in metadata.items()}


def to_array(picture: Picture) -> Samples:
    """Samples and alpha as (h, w) or (h, w, c)."""
    parts = [picture.samples] if picture.alpha is None else [picture.samples, picture.alpha]
    array = np.concatenate(parts, axis=2)
    return array[:, :, 0] if array.shape[2] == 1 else array


def join(parts: Iterable[Part], height: int, width: int) -> Samples:
    """The array (height, width, c) that the parts make up."""
    out: Samples | None = None
    for part in parts:
        rows, columns, channels = part.samples.shape
        if (rows, columns) == (height, width):
            out = part.samples
            continue
        if out is None:
            out = np.empty((height, width, channels), part.samples.dtype)
        out[part.top : part.top + rows, part.left : part.left + columns] = part.samples
    assert out is not None
    return out


def join_image(parts: Iterable[Part], height: int, width: int) -> Image.Image:
    """The image that the parts make up. Pillow has 16 bits for plain grey only; others come with 8 bits."""
    out: Image.Image | None = None
    for part in parts:
        image = _image_of(part.samples)
        if image.size == (width, height):
            out = image
            continue
        if out is None:
            out = Image.new(image.mode, (width, height))
        out.paste(image, (part.left, part.top))
    assert out is not None
    return out


def _image_of(samples: Samples) -> Image.Image:
    array = samples[:, :, 0] if samples.shape[2] == 1 else samples
    if array.dtype == np.uint16 and array.ndim == 3:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))


def reduced(samples: Samples, scale: int) -> Samples:
    """Means over squares of `scale` samples a side (h, w, c); the last row and column of squares may be cut."""
    if scale == 1:
        return samples
    height, width = samples.shape[:2]
    rows, columns = np.arange(0, height, scale), np.arange(0, width, scale)
    sums = np.add.reduceat(np.add.reduceat(samples, rows, 0, np.uint32), columns, 1, np.uint32)
    counts = np.minimum(scale, height - rows)[:, None, None] * np.minimum(scale, width - columns)[:, None]
    return ((sums + counts // 2) // counts).astype(samples.dtype)


def as_grey(picture: Picture) -> Picture:
    """A picture whose three channels are equal with one of them; any other as it is."""
    first = picture.samples[:, :, :1]
    if picture.channels != 3 or not (picture.samples == first).all():
        return picture
    metadata = {kind: block for kind, block in picture.metadata.items() if kind is not Metadata.ICC}
    return replace(picture, samples=np.ascontiguousarray(first), metadata=metadata)


def shown(x: NDArray[Any], channels: int) -> NDArray[Any]:
    """What a model of more channels than a grey picture makes of it, as it is shown: their mean; any other as it is."""
    return x if len(x) == channels else x.mean(axis=0, keepdims=True)


def to_unit(samples: Samples) -> NDArray[np.float32]:
    """Samples (h, w, c) as (c, h, w) in [-0.5, 0.5]."""
    peak = np.float32(np.iinfo(samples.dtype).max)
    return np.ascontiguousarray(samples.transpose(2, 0, 1), np.float32) / peak - np.float32(0.5)


def from_unit(x: NDArray[np.float32], depth: int) -> Samples:
    """(c, h, w) in [-0.5, 0.5] as samples (h, w, c)."""
    peak = np.float32((1 << depth) - 1)
    samples = np.empty((*x.shape[1:], len(x)), np.uint8 if depth == 8 else np.uint16)
    for channel, plane in enumerate(x):
        scaled = plane + np.float32(0.5)
        scaled *= peak
        scaled += np.float32(0.5)
        samples[:, :, channel] = np.clip(scaled, 0, peak, out=scaled)
    return samples
