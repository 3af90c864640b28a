"""A new archive."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calotype import names, vessel
from calotype.archive import rows
from calotype.archive.rows import Kind
from calotype.bitsback import chunk as bitsback_chunk
from calotype.bitsback.model import Model as BitsBackModel
from calotype.bundle import ModelFile
from calotype.codec import DEFAULT_QUALITY, level_of
from calotype.errors import InputError, OptionError
from calotype.header import unpack_header
from calotype.manifest import LEVELS
from calotype.small import SmallModel, chunk_size, image_of
from calotype.textbook import chunk as textbook_chunk
from calotype.vessel import Closable, Item

Images = NDArray[np.uint8]


class ArchiveWriter(Closable):
    """A new archive. What has been added when a method returns is on disk and stays there.

    Safe to share between threads, which add one after the other.

    Args:
        path: The file; it must not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self._vessel = vessel.create(Path(path))
        self._taken: set[str] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the file."""
        self._vessel.close()

    def _add(self, kind: Kind, given: Sequence[str], packed: bytes, data: bytes) -> Item:
        """Add images of these names, which are taken only once the row is stored."""
        item = self._vessel.add(kind, len(given), packed, data)
        self._taken.update(given)
        return item

    def _check_free(self, given: Sequence[str]) -> None:
        seen: set[str] = set()
        for name in map(names.check, given):
            if name in self._taken or name in seen:
                raise InputError(f"the archive holds an image named {name!r} already")
            seen.add(name)

    def add_picture(self, name: str, data: bytes) -> Item:
        """Add a picture: the bytes of a `.calo` file.

        Raises:
            InputError: If the name is taken or not allowed.
            FormatError: If the bytes do not begin like a `.calo` file.
        """
        unpack_header(data)
        with self._lock:
            self._check_free([name])
            return self._add(Kind.PICTURE, [name], name.encode(), data)

    def add_images(
        self, model: SmallModel, images: Images, given: Sequence[str] = (), level: int | None = None
    ) -> Item:
        """Add images (n, h, w, c) of the model's size as one row.

        Args:
            model: A bits-back model, which loses nothing, or a textbook model.
            images: At most as many as MAX_CHUNK_BYTES holds; `chunk_images` gives a good number.
            given: Their names, or none.
            level: 0..255, for a textbook model; that of the usual quality if it is not given.

        Raises:
            OptionError: If the level is out of range.
            InputError: If they do not fit the model, or a name is taken or not allowed.
        """
        if images.dtype != np.uint8 or images.shape[1:] != image_of(model) or not len(images):
            raise InputError(f"images are {images.dtype} {images.shape[1:]}; the model codes uint8 {image_of(model)}")
        if chunk_size(model, len(images)) > rows.MAX_CHUNK_BYTES or len(given) not in (0, len(images)):
            raise InputError(f"{len(images)} images with {len(given)} names do not make a chunk")
        level = level_of(DEFAULT_QUALITY) if level is None else level
        if not 0 <= level < LEVELS:
            raise OptionError(f"level {level} is not within 0..{LEVELS - 1}")
        with self._lock:
            called = given or [f"{self._vessel.totals.images + i:06d}" for i in range(len(images))]
            self._check_free(called)
            if isinstance(model, BitsBackModel):
                kind, data = Kind.BITS_BACK, bitsback_chunk.encode(model, np.ascontiguousarray(images))
            else:
                kind, data = Kind.LATENTS, textbook_chunk.pack_images(model, images, level)
            return self._add(kind, called, names.pack(given), model.bundle.id + data)

    def add_model(self, model: ModelFile) -> Item:
        """Add a model, so that the archive opens where it is not installed."""
        with self._lock:
            return self._vessel.add(Kind.MODEL, 0, b"", model.serialise())
