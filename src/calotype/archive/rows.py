"""What the rows of an archive may be, and how much one may hold."""

from __future__ import annotations

from enum import IntEnum

from calotype import vessel
from calotype.errors import DamagedFile, UnsupportedFile
from calotype.vessel import Item

MAX_CHUNK_BYTES = 1 << 26
"""Samples, or latents, of all images of a chunk."""


class Kind(IntEnum):
    """What a row of an archive is."""

    MODEL = 1
    PICTURE = 2
    BITS_BACK = 3
    LATENTS = 4


CHUNKS = (Kind.BITS_BACK, Kind.LATENTS)
_IMAGES = {Kind.MODEL: (0, 0), Kind.PICTURE: (1, 1)}
"""Least and most images of a row; 1 and MAX_ROW_IMAGES for the others."""


def kind_of(item: Item) -> Kind:
    """The kind of a row.

    Raises:
        UnsupportedFile: If this version does not know it.
        DamagedFile: If the row cannot be what it says.
    """
    try:
        kind = Kind(item.kind)
    except ValueError as error:
        raise UnsupportedFile(f"row {item.ordinal} is of kind {item.kind}: update calotype") from error
    least, most = _IMAGES.get(kind, (1, vessel.MAX_ROW_IMAGES))
    if not least <= item.images <= most or (kind == Kind.MODEL and item.names):
        raise DamagedFile(f"row {item.ordinal}, a {kind.name.lower()}, declares {item.images} images, or has names")
    return kind
