"""Pictures in the formats that Pillow knows: read from any of them, written to those that hold one faithfully."""

from __future__ import annotations

import io
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import typer
from PIL import Image, ImageOps, PngImagePlugin

import calotype
from calotype import bands, container
from calotype.bundle import Bundle, ModelFile
from calotype.cli.depth import is_deep
from calotype.errors import InputError
from calotype.header import unpack_header
from calotype.pixels import TIFF_LAYOUT, Samples, metadata_info, scale_transparency

_NO_PICTURES = {"BUFR", "CALO", "GRIB", "HDF5", "MPEG", "PDF"}
"""Formats whose suffixes Pillow registers but whose pictures it cannot read by itself, and our own."""


@dataclass(frozen=True)
class Format:
    """A format to write.

    Attributes:
        name: Pillow's name for it.
        modes: The modes that it holds without loss of bits or of alpha.
        metadata: Whether it holds EXIF, ICC and XMP.
        options: What Pillow is told when it saves.
    """

    name: str
    modes: frozenset[str] = frozenset({"L", "RGB"})
    metadata: bool = False
    options: dict[str, Any] = field(default_factory=dict[str, Any])


_ALPHA = frozenset({"L", "RGB", "LA", "RGBA"})
_ALL = _ALPHA | {"I;16"}
_JPEG = Format("JPEG", metadata=True, options={"quality": 95, "subsampling": "4:4:4"})
_TIFF = Format("TIFF", _ALL, metadata=True, options={"compression": "tiff_adobe_deflate"})
_PPM = Format("PPM", frozenset({"L", "RGB", "I;16"}))
FORMATS = {
    "png": Format("PNG", _ALL, metadata=True),
    "webp": Format("WEBP", _ALPHA, metadata=True, options={"lossless": True, "exact": True}),
    "jpg": _JPEG,
    "jpeg": _JPEG,
    "tiff": _TIFF,
    "tif": _TIFF,
    "avif": Format("AVIF", _ALPHA, metadata=True, options={"quality": 95, "subsampling": "4:4:4"}),
    "jp2": Format("JPEG2000", _ALL),
    "bmp": Format("BMP"),
    "ppm": _PPM,
    "pgm": _PPM,
    "tga": Format("TGA", _ALPHA),
}
"""Formats to write, by suffix."""
NPY = "npy"
"""One more, for the samples of any number of bands."""

METADATA = ("exif", "icc_profile", "xmp")
"""Names of metadata in `info` of Pillow's images and, mostly, among the options of `save`."""

_TOO_LARGE = (Image.DecompressionBombWarning, Image.DecompressionBombError)

CUT = "colour of over 8 bits a sample, which Pillow reads as 8: --lossless cannot keep it"
CUT_NOTE = "colour of over 8 bits a sample read as 8"

_XMP_TAG = 700
_POINTERS = {34665, 34853}
"""TIFF tags of EXIF's inner directories, which only Pillow's own writer keeps, and that does not compress."""


def is_picture(path: Path) -> bool:
    """Whether a file's suffix is that of a picture that Pillow reads."""
    name = Image.registered_extensions().get(path.suffix.lower())
    return name in Image.OPEN and name not in _NO_PICTURES


def holds_picture(path: Path) -> bool:
    """Whether a file's suffix is that of a picture, or of an array of bands."""
    return is_picture(path) or bands.is_bands(path)


def read_any(stream: BinaryIO, *, pages: bool = True) -> tuple[Image.Image | Samples, bool]:
    """As `read`, but the samples (h, w, c) of a file of bands; those of a TIFF are its `pages`, if they may be."""
    try:
        samples = bands.read(stream, pages=pages)
    except _TOO_LARGE as error:
        raise _too_large() from error
    if samples is None:
        return read(stream)
    if Image.MAX_IMAGE_PIXELS is not None and samples[..., 0].size > Image.MAX_IMAGE_PIXELS:
        raise _too_large()
    return samples, False


def read_for(stream: BinaryIO, model: ModelFile | None, *, pages: bool) -> tuple[Image.Image | Samples, bool]:
    """As `read_any`, for a model, or for none to code without loss.

    Raises:
        InputError: If samples would be lost that are to be kept, or the model is not one for so many bands.
    """
    image, cut = read_any(stream, pages=pages)
    if cut and model is None:
        raise InputError(CUT)
    if isinstance(image, np.ndarray) and isinstance(model, Bundle):
        count, channels = image.shape[2], model.manifest.channels
        if count not in (1, channels):  # the last would be taken for alpha, as `calotype.encode` takes an array's
            raise InputError(f"{count} bands; the model {model.name} codes {channels}: name another with -m")
    return image, cut


def _too_large() -> InputError:
    return InputError(f"more than {Image.MAX_IMAGE_PIXELS} pixels: --max-pixels of `calotype encode` allows more")


def read(stream: BinaryIO) -> tuple[Image.Image, bool]:
    """The picture of a file, and whether Pillow cut its samples to 8 bits, as it does for all but plain grey.

    Raises:
        InputError: If Pillow cannot read it.
    """
    try:
        image = Image.open(stream)
        cut = not image.mode.startswith("I") and is_deep(image, stream)
        scale_transparency(image)
        image.load()
    except Image.UnidentifiedImageError as error:
        raise InputError("not a picture that Pillow can read: no picture, an unusual kind, or a broken one") from error
    except _TOO_LARGE as error:
        raise _too_large() from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a plugin raises on broken input
        raise InputError(f"the picture cannot be read: {error or type(error).__name__}") from error
    return image, cut


def is_whole(path: Path) -> bool:
    """Whether a file is a picture as far as can be told without decoding it."""
    try:
        if bands.is_bands(path):
            with path.open("rb") as stream:
                return bands.read(stream) is not None
        with Image.open(path) as image:
            image.verify()
    except Exception:  # whatever a plugin raises on broken input
        return False
    return True


@contextmanager
def pixel_limit(most: int | None) -> Generator[None]:
    """Have pictures of more pixels refused before they are decoded; None is no limit."""
    usual = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = most
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def suffix_to_write(chosen: str | None, output: str | None, others: Sequence[str] = ()) -> str:
    """The format to write, as a name in FORMATS or in others: the chosen one, else that of the output, else png."""
    if chosen is None and (output is None or output.endswith("/") or Path(output).is_dir()):
        return "png"
    suffix = (Path(output or "").suffix if chosen is None else chosen).lower().removeprefix(".") or "png"
    if suffix not in (known := (*others, *FORMATS)):
        raise typer.BadParameter(f"{suffix!r} is not a format to write; choose --format of {', '.join(known)}")
    return suffix


def develop(data: bytes | memoryview, suffix: str, **wish: Any) -> Image.Image | Samples:
    """What a `.calo` file holds, for a file of a suffix: samples where no image of Pillow's keeps all of them.

    Args:
        data: The file.
        suffix: Of the file to write.
        wish: Arguments of `calotype.decode`.
    """
    header = unpack_header(data)
    deep_colour = header.depth == 16 and header.channels + header.alpha > 1
    as_bands = suffix == NPY or header.channels not in (1, 3) or (deep_colour and f".{suffix}" in bands.SUFFIXES)
    return (calotype.decode_array if as_bands else calotype.decode)(data, **wish)


def serialise(
    shown: Image.Image | Samples, suffix: str, source: bytes | memoryview | None = None
) -> tuple[bytes, tuple[str, ...]]:
    """A file of a suffix, and what it lacks of the `.calo` file that is its source."""
    if isinstance(shown, np.ndarray):
        return bands.serialise(shown, f".{suffix}"), _without({} if source is None else _metadata_in(source))
    target, lost = FORMATS[suffix], ()
    if source is not None and unpack_header(source).depth == 16 and shown.mode != "I;16":
        lost = ("16-bit colour written as 8 bits",)
    return save(shown, target), lost if target.metadata else (*lost, *_without(shown.info))


def _metadata_in(source: bytes | memoryview) -> dict[str, bytes]:
    """The metadata of a `.calo` file, by Pillow's names."""
    return metadata_info(container.unpack(source, wanted=lambda _: ()).metadata)


def _without(info: Mapping[Any, Any]) -> tuple[str, ...]:
    """What to say of metadata that is left out, if there is any."""
    left_out = [name for name in METADATA if name in info]
    return (f"without {', '.join(left_out)}",) if left_out else ()


def save(image: Image.Image, target: Format) -> bytes:
    """A picture as a file of another format, with its metadata if the format holds any.

    Raises:
        InputError: If the format does not hold the picture.
    """
    buffer = io.BytesIO()
    try:
        image = _fit(image, target)
        metadata = _metadata(image, target) if target.metadata else {}
        image.save(buffer, target.name, **(target.options | metadata))
    except (MemoryError, InputError):
        raise
    except Exception as error:  # whatever a plugin raises, such as over the size limits of its format
        raise InputError(f"cannot be written as {target.name}: {error}") from error
    return buffer.getvalue()


def _fit(image: Image.Image, target: Format) -> Image.Image:
    if not target.metadata:
        ImageOps.exif_transpose(image, in_place=True)  # else a copy is made even where nothing turns
    if image.mode in target.modes:
        return image
    if image.mode == "I;16":
        raise InputError(f"{target.name} does not hold 16 bits a sample: use png or tiff")
    if image.getchannel("A").getextrema() != (255, 255):
        raise InputError(f"{target.name} does not hold transparency: use png or webp")
    return image.convert("L" if image.mode == "LA" else "RGB")


def _metadata(image: Image.Image, target: Format) -> dict[str, Any]:
    """Options of `save` that pass the metadata on."""
    options = {name: image.info[name] for name in METADATA if image.info.get(name)}
    xmp: bytes | None = options.get("xmp")
    if target.name == "PNG" and xmp:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp)
    elif target.name == "TIFF":
        exif = Image.Exif()
        exif.load(options.get("exif", b""))
        for tag in TIFF_LAYOUT & set(exif):  # as other programs' EXIF may hold them
            del exif[tag]
        if xmp:
            exif[_XMP_TAG] = xmp
        options["exif"] = exif
        if _POINTERS & set(exif):
            options["compression"] = "raw"
    return options
