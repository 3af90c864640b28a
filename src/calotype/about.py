"""What a file says of itself, without decoding it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from calotype import container, library
from calotype.bundle import Bundle, ModelFile
from calotype.errors import ModelNotFound


@dataclass(frozen=True)
class Info:
    """What a file says of itself, without decoding it.

    Attributes:
        level: 0..255, None for a picture stored losslessly; so are head and model.
        model_id: 16 hex digits, empty for a picture stored losslessly.
        model_name: Name of the model, None if it is not installed.
        cicp: Colour code points: primaries, transfer, matrix, full range; (1, 13, 0, 1) is sRGB.
        metadata: Bytes of each metadata block: exif, icc, xmp.
    """

    width: int
    height: int
    channels: int
    has_alpha: bool
    depth: int
    lossless: bool
    level: int | None
    model_id: str
    model_name: str | None
    head: str | None
    cicp: tuple[int, int, int, int]
    tile_px: int
    tiles: int
    file_bytes: int
    bpp: float
    metadata: dict[str, int]


def _head_of(model: ModelFile | None, head: int) -> str:
    """A head's name, if the model is known and names its heads."""
    if isinstance(model, Bundle) and head < len(model.manifest.heads):
        return model.manifest.heads[head].name
    return str(head)


def info(data: bytes) -> Info:
    """What a file says of itself; checks every checksum, decodes nothing.

    Raises:
        FormatError: If the bytes are not a sound `.calo` file.
    """
    whole = container.unpack(data)
    header, coding = whole.header, whole.header.coding
    found = None
    if coding is not None:
        with suppress(ModelNotFound):
            found = library.find_id(coding.model_id)
    return Info(
        width=header.width,
        height=header.height,
        channels=header.channels,
        has_alpha=header.alpha,
        depth=header.depth,
        lossless=coding is None,
        level=None if coding is None else coding.level,
        model_id="" if coding is None else coding.model_id.hex(),
        model_name=None if found is None else found.name,
        head=None if coding is None else _head_of(found, coding.head),
        cicp=header.cicp,
        tile_px=header.tile_px,
        tiles=header.tile_count,
        file_bytes=len(data),
        bpp=8 * len(data) / (header.width * header.height),
        metadata={kind.name.lower(): len(block) for kind, block in whole.metadata.items()},
    )
