"""Other codecs, as Pillow ships them, and the search for a quality that spends a given number of bytes.

Settings lean towards small files where that is nearly free: JPEG with Huffman tables made for the picture, WebP with
its slowest method, AVIF at libavif's speed 6, Pillow's default. JPEG, WebP and AVIF store chroma at half resolution
(4:2:0), the default of each, and libavif tunes AVIF for the eye. Both cost AVIF PSNR in RGB, some 0.5 dB at low rates
and more at high ones; so where PSNR is the measure it also runs as AVIF (PSNR): whole chroma (4:4:4), tuned for PSNR.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

Encode = Callable[[Image.Image, float], bytes]
"""A picture and a quality 0-100 to a whole file."""


def save(image: Image.Image, format: str, **options: object) -> bytes:  # noqa: A002 (Pillow's word)
    """A picture as a file of Pillow's format, with Pillow's defaults for what is not given."""
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def jpeg(image: Image.Image, quality: float) -> bytes:
    """JPEG (libjpeg-turbo) with optimised Huffman tables."""
    return save(image, "JPEG", quality=round(quality), optimize=True)


def webp(image: Image.Image, quality: float) -> bytes:
    """Lossy WebP (libwebp), method 6."""
    return save(image, "WEBP", quality=quality, method=6)


def avif(image: Image.Image, quality: float) -> bytes:
    """AVIF (libavif), speed 6."""
    return save(image, "AVIF", quality=round(quality))


def avif_psnr(image: Image.Image, quality: float) -> bytes:
    """AVIF at its best by PSNR in RGB: 4:4:4, tuned for PSNR; speed 6."""
    return save(image, "AVIF", quality=round(quality), subsampling="4:4:4", codec="aom", advanced={"tune": "psnr"})


def decode(data: bytes) -> Image.Image:
    """Any file that Pillow reads, as RGB."""
    with Image.open(BytesIO(data)) as image:
        return image.convert("RGB")


@dataclass(frozen=True)
class Codec:
    """A codec: its name in tables, how its files end, and both ways through it."""

    name: str
    suffix: str
    encode: Encode
    decode: Callable[[bytes], Image.Image] = decode
    step: float = 1
    """The quality's finest step."""


PEERS = (
    Codec("AVIF", ".avif", avif),
    Codec("AVIF (PSNR)", ".psnr.avif", avif_psnr),
    Codec("WebP", ".webp", webp, step=0.01),  # from 0 to 1 alone its files grow by a third
    Codec("JPEG", ".jpg", jpeg),
)


def quality_at_size(codec: Codec, image: Image.Image, size_bytes: int) -> float:
    """The best quality 0-100 whose file is not larger than `size_bytes`; 0 where even that one is larger.

    A binary search: it takes a codec's files to grow with the quality, which holds for these but for a few neighbouring
    qualities that differ by some bytes.
    """
    low, high = 0, round(100 / codec.step)
    while low < high:
        middle = (low + high + 1) // 2
        if len(codec.encode(image, middle * codec.step)) <= size_bytes:
            low = middle
        else:
            high = middle - 1
    return low * codec.step


def at_size(codec: Codec, image: Image.Image, size_bytes: int) -> bytes:
    """The best file not larger than `size_bytes`, or the smallest there is where none is: look at its length."""
    return codec.encode(image, quality_at_size(codec, image, size_bytes))
