"""An archive that is there, and its images."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calotype import bundle, codec, library, names
from calotype.archive import rows
from calotype.archive.rows import CHUNKS, Kind, kind_of
from calotype.bitsback import chunk as bitsback_chunk
from calotype.bitsback.model import Model as BitsBackModel
from calotype.bundle import ModelFile
from calotype.errors import DamagedFile, InputError, InvalidModel, LimitExceeded, UnsupportedFile
from calotype.header import MODEL_ID_BYTES, unpack_header
from calotype.lazy import cached_property
from calotype.pixels import Samples
from calotype.small import SmallModel, chunk_size, small_model
from calotype.textbook import chunk as textbook_chunk
from calotype.textbook.model import Model as TextbookModel
from calotype.vessel import Closable, Item, Vessel

Images = NDArray[np.uint8]

MAX_ARRAY_BYTES = 1 << 31
"""Samples of all images that `Archive.arrays` gives at once."""
CACHED_BYTES = 1 << 26
"""Of chunks that were decoded last; the very last one is kept, however large."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of an archive.

    Attributes:
        name: Its name; its number, in six digits, if it has none.
        item: The row that holds it.
        place: Which image of that row it is.
    """

    name: str
    item: Item
    place: int


class Archive(Closable):
    """An archive to read. Safe to share between threads.

    Args:
        path: The file.
        model: A model to use, installed or not.

    Raises:
        FormatError: If the file is no sound archive.
    """

    def __init__(self, path: str | Path, model: ModelFile | None = None) -> None:
        self._vessel = Vessel(Path(path))
        self._extra = model
        self._models: dict[bytes, ModelFile] = {}
        self._small_models: dict[bytes, SmallModel] = {}
        self._chunks: OrderedDict[int, tuple[SmallModel, NDArray[np.uint8 | np.float32]]] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the file."""
        self._vessel.close()

    def __len__(self) -> int:
        return self._vessel.totals.images

    def __getitem__(self, which: str | int) -> Image.Image:
        return self.image(which if isinstance(which, str) else self.entries[which])

    @property
    def items(self) -> list[Item]:
        """The rows: images, chunks and models."""
        return self._vessel.items

    @cached_property
    def entries(self) -> list[Entry]:
        """All images, in order.

        Raises:
            DamagedFile: If names break a rule.
        """
        entries = [entry for item in self.items for entry in self._entries_of(item)]
        if len({entry.name for entry in entries}) < len(entries):
            raise DamagedFile(f"{self._vessel.path}: two images have the same name")
        return entries

    @cached_property
    def _by_name(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in self.entries}

    @property
    def names(self) -> list[str]:
        """Names of all images, in order."""
        return [entry.name for entry in self.entries]

    @cached_property
    def _first(self) -> list[int]:
        """The number of each row's first image."""
        return [0, *np.cumsum([item.images for item in self.items]).tolist()]

    def _entries_of(self, item: Item) -> list[Entry]:
        kind = kind_of(item)
        if kind == Kind.PICTURE:
            return [Entry(_decoded_name(item), item, 0)]
        first = self._first[item.ordinal]
        given = names.unpack(item.names, item.images) or [f"{first + i:06d}" for i in range(item.images)]
        return [Entry(name, item, place) for place, name in enumerate(given)]

    def find(self, name: str) -> Entry:
        """The image of this name.

        Raises:
            InputError: If there is none.
        """
        if name not in self._by_name:
            raise InputError(f"{self._vessel.path} holds no image named {name!r}")
        return self._by_name[name]

    def _entry(self, which: str | Entry) -> Entry:
        return self.find(which) if isinstance(which, str) else which

    def array(self, which: str | Entry) -> Samples:
        """An image as an array (h, w) or (h, w, c), uint8 or uint16, alpha last. Errors as of `image`."""
        entry = self._entry(which)
        if kind_of(entry.item) == Kind.PICTURE:
            data, model = self._file(entry.item)
            return codec.decode_array(data, model=model)
        samples = self._sample(entry)
        return samples[..., 0] if samples.shape[2] == 1 else samples

    def image(self, which: str | Entry) -> Image.Image:
        """An image, decoded.

        Raises:
            FormatError: If what holds it is damaged.
            ModelNotFound: If its model is neither installed nor embedded.
            InputError: If there is none of this name.
            UnsupportedFile: If it has not 1 or 3 channels, alpha aside.
        """
        found = self.image_or_array(which)
        if isinstance(found, np.ndarray):
            name = self._entry(which).name
            raise UnsupportedFile(f"{name} has {found.shape[2]} channels: no PIL image holds it; use array()")
        return found

    def image_or_array(self, which: str | Entry) -> Image.Image | Samples:
        """An image as of `image`, or as of `array` if no PIL image holds its channels."""
        entry = self._entry(which)
        if kind_of(entry.item) == Kind.PICTURE:
            data, model = self._file(entry.item)
            decode = codec.decode if unpack_header(data).channels in (1, 3) else codec.decode_array
            return decode(data, model=model)
        samples = self.array(entry)
        return Image.fromarray(samples) if samples.ndim == 2 or samples.shape[2] == 3 else samples

    def latents(self, which: str | Entry) -> NDArray[np.float32]:
        """The latents of an image: y_hat of a picture as of `codec.whole_latents`, y (d,) of a small image in bins.

        Raises:
            InputError: If it is coded without loss, so has none.
        """
        entry = self._entry(which)
        if kind_of(entry.item) == Kind.PICTURE:
            data, model = self._file(entry.item)
            return codec.whole_latents(data, model=model)
        model, decoded = self._decoded(entry.item)
        if not isinstance(model, TextbookModel):
            raise InputError(f"{entry.name} is coded with bits back: its latents are chosen by chance and not kept")
        return decoded[entry.place].astype(np.float32)

    def file(self, which: str | Entry) -> tuple[bytes, ModelFile | None] | None:
        """A picture's `.calo` file, and its model if it has one; None for an image of a chunk. Errors as of `image`."""
        item = self._entry(which).item
        return self._file(item) if kind_of(item) == Kind.PICTURE else None

    def _file(self, item: Item) -> tuple[bytes, ModelFile | None]:
        """A picture's file, and its model if it has one."""
        data = self._vessel.data(item)
        coding = unpack_header(data).coding
        return data, None if coding is None else self._model(coding.model_id)

    def chunk(self, item: Item) -> Images:
        """All images of a row, (n, h, w, c), decoded."""
        model, decoded = self._decoded(item)
        if isinstance(model, TextbookModel):
            return model.synthesise(decoded.astype(np.float32, copy=False))
        return decoded.astype(np.uint8)

    def _sample(self, entry: Entry) -> Images:
        """One image (h, w, c) of a chunk: all of a bits-back chunk is decoded, of latents only the one is developed."""
        model, decoded = self._decoded(entry.item)
        if isinstance(model, TextbookModel):
            return model.synthesise(decoded[entry.place : entry.place + 1].astype(np.float32, copy=False))[0]
        return decoded[entry.place].astype(np.uint8)  # a copy: the chunk stays as it is, whatever a caller does

    def _decoded(self, item: Item) -> tuple[SmallModel, NDArray[np.uint8 | np.float32]]:
        """The model of a chunk, and its images or latents. The last few are kept."""
        with self._lock:
            if item.ordinal not in self._chunks:
                self._chunks[item.ordinal] = self._decode(item)
                while len(self._chunks) > 1 and sum(c.nbytes for _, c in self._chunks.values()) > CACHED_BYTES:
                    self._chunks.popitem(last=False)
            self._chunks.move_to_end(item.ordinal)
            return self._chunks[item.ordinal]

    def _decode(self, item: Item) -> tuple[SmallModel, NDArray[np.uint8 | np.float32]]:
        if kind_of(item) not in CHUNKS:
            raise InputError(f"row {item.ordinal} is no chunk of small images")
        data = memoryview(self._vessel.data(item))
        model = self._small_model(bytes(data[:MODEL_ID_BYTES]))
        if chunk_size(model, item.images) > rows.MAX_CHUNK_BYTES:
            raise LimitExceeded(f"row {item.ordinal} declares {item.images} images, more than a chunk holds")
        if isinstance(model, BitsBackModel) != (item.kind == Kind.BITS_BACK):
            raise DamagedFile(f"row {item.ordinal} names a model of another kind")
        if isinstance(model, BitsBackModel):
            return model, bitsback_chunk.decode(model, data[MODEL_ID_BYTES:], item.images)
        return model, textbook_chunk.unpack_latents(model, data[MODEL_ID_BYTES:], item.images)

    def _small_model(self, model_id: bytes) -> SmallModel:
        if model_id not in self._small_models:
            self._small_models[model_id] = small_model(self._model(model_id))
        return self._small_models[model_id]

    def arrays(self) -> Images:
        """All images as one array (n, h, w, c).

        Raises:
            InputError: If they do not all have one size.
            LimitExceeded: If they have over MAX_ARRAY_BYTES samples.
        """
        chunks = [item for item in self.items if kind_of(item) in CHUNKS]
        fault = InputError(f"{self._vessel.path}: the images are not all small ones of one size: unpack to a folder")
        if not chunks or sum(item.images for item in chunks) != len(self):
            raise fault
        first = self.chunk(chunks[0])
        if len(self) * prod(first.shape[1:]) > MAX_ARRAY_BYTES:
            raise LimitExceeded(f"{self._vessel.path}: over {MAX_ARRAY_BYTES} samples: unpack to a folder")
        parts = [first]
        for item in chunks[1:]:
            parts.append(self.chunk(item))
            if parts[-1].shape[1:] != first.shape[1:]:
                raise fault
        return np.concatenate(parts)

    def _model(self, model_id: bytes) -> ModelFile:
        if model_id not in self._models:
            self._models[model_id] = self._find_model(model_id)
        return self._models[model_id]

    def _find_model(self, model_id: bytes) -> ModelFile:
        if self._extra is not None and self._extra.id == model_id:
            return self._extra
        if model_id in self._embedded:
            return library.vetted(self._embedded[model_id])
        return library.find_id(model_id)

    @cached_property
    def _embedded(self) -> dict[bytes, ModelFile]:
        """The models inside, by id, not yet vetted; those that are no models are left out."""
        found: dict[bytes, ModelFile] = {}
        for item in self.items:
            if kind_of(item) == Kind.MODEL:
                with suppress(DamagedFile, InvalidModel):
                    file = bundle.read_file(Path(f"{self._vessel.path}:model"), self._vessel.data(item))
                    found[file.id] = file
        return found


def _decoded_name(item: Item) -> str:
    try:
        return names.checked(item.names.decode())
    except UnicodeDecodeError as error:
        raise DamagedFile(f"the name in row {item.ordinal} is no UTF-8") from error
