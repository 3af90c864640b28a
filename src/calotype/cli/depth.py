"""Whether a picture's file has more than 8 bits a sample; Pillow says so in passing, if at all."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

from PIL import ImageFile

_DEEP_RAW_MODE = re.compile(r"(?<!BGR);16")
"""16 bits a sample; BGR;16 has 16 bits a pixel."""
_NETPBM = ("ppm", "ppm_plain")
_CODESTREAM = b"\xff\x4f\xff\x51"
"""Start of a JPEG 2000 codestream: the markers SOC and SIZ (ISO 15444-1, A.5.1)."""
_SSIZ_AT = 42
"""Where, from there on, stands the first component's depth less one."""
_AV1C_AT = 6
"""Where, from the name of the box av1C on, stands the flag high_bitdepth (AV1 in ISOBMFF, 2.3.3)."""


def is_deep(image: ImageFile.ImageFile, stream: BinaryIO) -> bool:
    """Whether samples have more than 8 bits; the image is opened from the stream and not yet loaded."""
    if image.format in ("JPEG2000", "AVIF"):
        stream.seek(0)
        return (_is_deep_jpeg_2000 if image.format == "JPEG2000" else _is_deep_avif)(stream.read())
    return any(_is_deep_tile(tile.codec_name, tile.args) for tile in image.tile)


def _is_deep_tile(codec: str, arguments: Any) -> bool:
    if codec in _NETPBM:
        return arguments[1] > 255
    return _DEEP_RAW_MODE.search(str(arguments)) is not None


def _is_deep_jpeg_2000(data: bytes) -> bool:
    at = data.find(_CODESTREAM) + _SSIZ_AT
    return _SSIZ_AT <= at < len(data) and data[at] & 0x7F > 7


def _is_deep_avif(data: bytes) -> bool:
    at = data.find(b"av1C") + _AV1C_AT
    return _AV1C_AT <= at < len(data) and bool(data[at] & 0x40)
