"""The library's functions: encode, decode, latents, models."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calotype import container, library, pixels
from calotype.bundle import Bundle, ModelFile, photo
from calotype.container import Container, Metadata
from calotype.decoder import View, parts_of, tile_latents, tiles_of, view_of
from calotype.encoder import PictureCoder, encode_lossless, or_lossless
from calotype.errors import InputError, OptionError, UnsupportedFile
from calotype.header import SRGB, Header, unpack_header
from calotype.pixels import Part, Picture, Samples
from calotype.prior import Latents
from calotype.rate import DEFAULT_QUALITY, Rate, level_of
from calotype.runtime import Runtime
from calotype.textbook import picture as textbook
from calotype.textbook.model import Model, TextbookBundle
from calotype.textbook.picture import ImageCoder

MAX_PIXELS = 1 << 28
DEFAULT_EFFORT = 2
EFFORTS = range(1, 10)

Images = Image.Image | NDArray[np.generic]
Region = tuple[int, int, int, int]
"""A rectangle of a picture: x, y, width, height, in pixels."""
Models = ModelFile | str | Path | None
"""A model, its name or its path; None for the default one."""


@lru_cache(maxsize=4)
def runtime_of(bundle: Bundle) -> Runtime:
    """The networks of a bundle, shared by all calls."""
    return Runtime(bundle)


@lru_cache(maxsize=4)
def small_model_of(bundle: TextbookBundle) -> Model:
    """The networks of a textbook model, shared by all calls."""
    return Model(bundle)


def picture_of(image: Images, model: ModelFile | None, *, strip: bool = False) -> Picture:
    """A picture as people have it, as a model codes it; without a model, as it is kept losslessly.

    Raises:
        InputError: If it is none, or no such picture can be coded.
    """
    if isinstance(image, Image.Image):
        return pixels.from_image(image, strip=strip)
    if isinstance(image, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
        return pixels.from_array(image, model.manifest.channels if isinstance(model, Bundle) else None)
    raise InputError(f"a {type(image).__name__} is not a picture; give a PIL image or a numpy array")


def _check_effort(effort: int) -> None:
    if not isinstance(effort, int) or effort not in EFFORTS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"effort {effort!r} is not within {EFFORTS[0]}..{EFFORTS[-1]}")


def encode(
    image: Images,
    *,
    quality: float | None = None,
    bpp: float | None = None,
    size: int | None = None,
    psnr: float | None = None,
    lossless: bool = False,
    effort: int = DEFAULT_EFFORT,
    head: str | None = None,
    model: Models = None,
    strip: bool = False,
) -> bytes:
    """Encode a picture as `.calo` bytes.

    A small or flat picture (an icon, a screenshot) is stored losslessly where that takes no more bytes, or where the
    model does badly on it and lossless takes at most three times the bytes.

    Args:
        image: A PIL image, or an array (h, w) or (h, w, c) of uint8 or uint16. Of c 2 and 4 (grey and alpha, RGBA)
            the last channel is alpha, unless the model is one for that many channels.
        quality: 0 (smallest) to 100 (best); 60 if no rate is given. At most one of the rates may be given.
        bpp: Bits of the file per pixel, at most.
        size: Bytes of the file, at most.
        psnr: Decibels, at least.
        lossless: Keep every sample.
        effort: 1 (fastest) to 9 (smallest). 1 and 2 choose symbols by rate and distortion and fit a filter, to be run
            after synthesis, to parts of the picture, 3 fits it to all of it, 4 and 5 (and 6, which equals 5) correct
            the latents by what decoding would lose, 7, 8 and 9 refine them by 50, 150 and 500 steps of gradient descent
            and need the extra `learn`. Lossless pictures use efforts up to 6, models of small images one.
        head: What the file is made for: `psnr` (the first of a model, if not given) for fidelity to each sample,
            `visual` for how the picture looks; it then uses efforts up to 2.
        model: Name or path of a model, or the model itself; `photo` if not given.
        strip: Drop EXIF, ICC and XMP, and apply the orientation.

    Raises:
        InputError: If the picture cannot be encoded, or the rate not be met.
        OptionError: If an option is out of range, options exclude each other, or effort needs what is not installed.
        ModelError: If the model cannot be used.
    """
    _check_effort(effort)
    rate = Rate.of({"quality": quality, "bpp": bpp, "size": size, "psnr": psnr}, lossless=lossless)
    found = None if lossless else library.find_any(model)
    return encode_picture(picture_of(image, found, strip=strip), found, rate, effort=effort, head=head)


def encode_picture(
    picture: Picture, model: ModelFile | None, rate: Rate, *, effort: int = DEFAULT_EFFORT, head: str | None = None
) -> bytes:
    """As `encode`, of what `picture_of` gave for the same model, or for None to code without loss."""
    if model is None:
        return encode_lossless(picture, effort)
    most_bytes = rate.most_bytes(picture.samples.shape[0] * picture.samples.shape[1])
    index = 0 if head is None else _head_named(model, head)
    if isinstance(model, TextbookBundle):
        return rate.reached_by(ImageCoder.of(picture, small_model_of(model)), most_bytes)
    coder = PictureCoder.of(picture, runtime_of(photo(model)), effort, index)
    learned = partial(rate.reached_by, coder, most_bytes)
    return or_lossless(coder, learned, most_bytes=most_bytes, may_grow=rate.name == "quality")


def _bundle_for(header: Header, model: Models) -> ModelFile:
    assert header.coding is not None
    given = None if model is None else library.find_any(model)
    found = library.find_id(header.coding.model_id, given)
    return found if isinstance(found, TextbookBundle) else _fitting(header, photo(found))


def _fitting(header: Header, bundle: Bundle) -> Bundle:
    """A photo codec's model, if it has what a file names."""
    assert header.coding is not None
    manifest = bundle.manifest
    fits = header.channels == manifest.channels or (header.channels, manifest.channels) == (1, 3)
    if header.coding.head >= len(manifest.heads) or not fits:
        raise UnsupportedFile(
            f"the model {bundle.name} has no head {header.coding.head} for {header.channels} channels"
        )
    return bundle


def _head_named(model: ModelFile, head: str) -> int:
    if not isinstance(model, Bundle):
        raise OptionError(f"head {head!r}: the model {model.name} has no heads to choose from; leave the option out")
    return model.manifest.head_named(head)


def _for_head(whole: Container, head: int) -> Container:
    """The same file, as if it had been made for another head."""
    coding = whole.header.coding
    assert coding is not None
    if head == coding.head:
        return whole
    return replace(whole, header=replace(whole.header, coding=replace(coding, head=head)), postfilter=memoryview(b""))


@dataclass(frozen=True)
class _Shown:
    """What is shown of a file: its metadata, its height and width, and its samples in parts."""

    metadata: dict[Metadata, bytes]
    size_px: tuple[int, int]
    parts: Iterator[Part]


@dataclass(frozen=True)
class _Wish:
    """What a caller of `decode` asks for."""

    region: Region | None
    preview: int | None
    max_pixels: int | None
    model: Models
    head: str | None

    def view(self, header: Header) -> View:
        """What of the picture is shown."""
        return view_of(header, self.region, self.preview, self.max_pixels)


def _show(data: bytes | memoryview, wish: _Wish) -> _Shown:
    whole = container.unpack(data, wanted=lambda header: tiles_of(header, wish.view(header)))
    if whole.header.cicp != SRGB and Metadata.ICC not in whole.metadata:
        warnings.warn(f"colour is CICP {whole.header.cicp}, not sRGB, and not converted", stacklevel=3)
    view = wish.view(whole.header)
    if whole.header.coding is None:
        return _Shown(whole.metadata, view.size_px, parts_of(whole, None, view))
    found = _bundle_for(whole.header, wish.model)
    if wish.head is not None:
        try:
            whole = _for_head(whole, _head_named(found, wish.head))
        except OptionError as error:  # another file's model may have it
            raise InputError(str(error)) from error
    if isinstance(found, TextbookBundle):
        samples = textbook.develop(whole, small_model_of(found)).samples[view.box.slices()]
        return _Shown(whole.metadata, view.size_px, iter([Part(0, 0, pixels.reduced(samples, view.scale))]))
    return _Shown(whole.metadata, view.size_px, parts_of(whole, runtime_of(photo(found)), view))


def decode_array(
    data: bytes | memoryview,
    *,
    region: Region | None = None,
    preview: int | None = None,
    max_pixels: int | None = MAX_PIXELS,
    model: Models = None,
    head: str | None = None,
) -> Samples:
    """Decode `.calo` bytes to an array (h, w) or (h, w, c), uint8 or uint16, alpha last. Arguments as of `decode`."""
    shown = _show(data, _Wish(region, preview, max_pixels, model, head))
    array = pixels.join(shown.parts, *shown.size_px)
    return array[:, :, 0] if array.shape[2] == 1 else array


def decode(
    data: bytes | memoryview,
    *,
    region: Region | None = None,
    preview: int | None = None,
    max_pixels: int | None = MAX_PIXELS,
    model: Models = None,
    head: str | None = None,
) -> Image.Image:
    """Decode `.calo` bytes to a PIL image, with `exif`, `icc_profile` and `xmp` in its `info`.

    Args:
        data: A whole file. Of a memory map (`memoryview(mmap.mmap(...))`), a region reads only what it needs.
        region: Decode only this rectangle (x, y, width, height) of the picture, as it is stored: orientation in EXIF
            is not applied. Time and memory are those of the tiles under it and under some pixels around it, at most 64.
        preview: Decode at 1/2, 1/4, ... 1/64 of the size: each sample is the mean of a square of n by n. From 16 on
            the model makes it from the latents, at half the time of the picture and without its details.
        max_pixels: Refuse pictures, or regions, of more pixels; None for no limit.
        model: Name or path of the model that the file names, or the model itself; found by its id if not given.
        head: Which synthesis to use; that which the file was made for if not given.

    Raises:
        FormatError: If the bytes are not a sound `.calo` file, or over the limit.
        InexactRuntime: If this machine's runtime does not compute the prior exactly.
        ModelNotFound: If the file's model is not installed.
        InputError: If the region does not lie within the picture, or the file's model has no such head.
        OptionError: If there can be no such region or preview, or both are given.
    """
    if (channels := unpack_header(data).channels) not in (1, 3):
        raise UnsupportedFile(
            f"Pillow holds 1 or 3 channels, not {channels}; decode_array, and files of .npy and .tif, hold them"
        )
    shown = _show(data, _Wish(region, preview, max_pixels, model, head))
    image = pixels.join_image(shown.parts, *shown.size_px)
    image.info.update(pixels.metadata_info(shown.metadata))
    return image


def latents(image_or_data: Images | bytes, *, quality: float = DEFAULT_QUALITY, model: Models = None) -> list[Latents]:
    """The latents of each tile, in raster order: of a file's bytes, or of a picture as it would be encoded.

    Raises:
        InputError: If the file is stored losslessly, so has none, or by a model of small images.
    """
    if isinstance(image_or_data, bytes | bytearray | memoryview):
        data = image_or_data
    else:
        Rate.of({"quality": quality})
        bundle = library.find(model)
        picture = picture_of(image_or_data, bundle)
        data = PictureCoder.of(picture, runtime_of(bundle), DEFAULT_EFFORT).at_level(level_of(quality))
    whole = container.unpack(data, MAX_PIXELS)
    if whole.header.coding is None:
        raise InputError("the file is stored losslessly: it has no latents")
    found = _bundle_for(whole.header, model)
    if not isinstance(found, Bundle):
        raise InputError(f"the model {found.name} is one of small images: latents are of pictures of any size")
    return tile_latents(whole, runtime_of(found), whole.header.coding)


def whole_latents(data: bytes, *, model: Models = None) -> NDArray[np.float32]:
    """The latent y_hat (m, h/16, w/16) of a picture's file, its tiles side by side, in steps of the quantiser.

    h and w are the picture's sides, padded to multiples of 64.

    Raises:
        InputError: If the file is stored losslessly, so has none, or by a model of small images.
    """
    tiles = [tile.y_hat for tile in latents(data, model=model)]
    columns = unpack_header(data).tile_columns
    rows = [np.concatenate(tiles[i : i + columns], axis=2) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows, axis=1)


def models() -> list[ModelFile]:
    """The installed models."""
    return list(library.installed())
