"""Model files of kind `textbook`: an image becomes some latents, each with a table (SPEC.md, section 10)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from calotype.bundle import ModelFile, tables_in
from calotype.coding import IntArray, Table, Tables
from calotype.errors import InvalidModel
from calotype.manifest import LEVELS
from calotype.runtime import Floats, Networks

KIND = "textbook"
ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
DECODING = {DECODER, "tables.u32", "radii.u16"}
MAX_SIDE_PX = 256
CHANNELS = (1, 3)
LEVELS_AN_OCTAVE = 42
PEAK = 255
_RUN_AT_ONCE = 1000

Images = NDArray[np.uint8]


def step_of(level: int) -> int:
    """The quantiser's step at a level, in bins: 1 at the highest, 68 at the lowest."""
    octave, part = divmod(LEVELS - 1 - level, LEVELS_AN_OCTAVE)
    return (LEVELS_AN_OCTAVE + part) * 2**octave // LEVELS_AN_OCTAVE


def _cells(table: Table, step: int) -> tuple[IntArray, IntArray, int]:
    """The bins of a table, the place of each one's symbol at another step, and the radius of those symbols."""
    bins = np.arange(-table.radius, table.radius + 1, dtype=np.int32)
    symbols = (bins + step // 2) // step
    radius = max(1, int(np.abs(symbols).max()))
    return bins, symbols + radius, radius


def coarser(table: Table, step: int) -> Table:
    """A latent's table at another step: bins that fall into one symbol add up."""
    _, places, radius = _cells(table, step)
    sums = np.bincount(places, table.frequencies[:-1], 2 * radius + 1).astype(np.int64)
    kept = np.maximum(sums, 1)
    kept[radius] -= kept.sum() - sums.sum()
    return Table(radius, np.append(kept, table.frequencies[-1]).astype(np.uint32))


def centroids(table: Table, step: int) -> Floats:
    """Where the symbols -radius..radius of `coarser` stand, in bins: the mean of what falls into each."""
    bins, places, radius = _cells(table, step)
    mass, moment = (
        np.bincount(places, weights, 2 * radius + 1)
        for weights in (table.frequencies[:-1], table.frequencies[:-1] * 1.0 * bins)
    )
    middles = np.arange(-radius, radius + 1) * float(step)
    return np.where(mass > 0, moment / np.maximum(mass, 1), middles).astype(np.float32)


@dataclass(frozen=True, eq=False)
class TextbookBundle(ModelFile):
    """A model file of kind `textbook`.

    Attributes:
        image: Height, width and channels of its images.
        tables: Of each latent, for its value in bins, the finest step.
    """

    image: tuple[int, int, int]
    tables: Tables
    _at_level: dict[int, tuple[Tables, tuple[Floats, ...]]] = field(
        default_factory=dict[int, tuple[Tables, tuple[Floats, ...]]], repr=False
    )

    @property
    def latents(self) -> int:
        """How many numbers an image becomes."""
        return len(self.tables.tables)

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what its graphs are given for one image."""
        height, width, channels = self.image
        return {"x": (1, channels, height, width), "y": (1, self.latents)}

    def at_level(self, level: int) -> tuple[Tables, tuple[Floats, ...]]:
        """Tables of the latents' symbols at a level, and the value of each symbol; made once."""
        step = step_of(level)
        if step not in self._at_level:
            tables = Tables(tuple(coarser(table, step) for table in self.tables.tables))
            self._at_level[step] = tables, tuple(centroids(table, step) for table in self.tables.tables)
        return self._at_level[step]


def bundle_of(file: ModelFile) -> TextbookBundle:
    """A model file as one of kind `textbook`.

    Raises:
        InvalidModel: If it is another kind of model, or breaks a rule for this one.
    """
    if file.kind != KIND:
        raise InvalidModel(f"{file.path}: a model of kind {file.kind!r}, not one of small images' latents ({KIND!r})")
    try:
        image: Any = file.card["image"]
        if len(image) != 3 or any(type(side) is not int or not 1 <= side <= MAX_SIDE_PX for side in image):
            raise ValueError(f"image {image} is not a height and width within 1..{MAX_SIDE_PX} and channels")
        if image[2] not in CHANNELS:
            raise ValueError(f"{image[2]} channels; 1 or 3 are known")
        if set(file.card["decoding"]) != DECODING:
            raise ValueError(f"decoding must list just {sorted(DECODING)}")
        tables = tables_in(file)
        if tables.any_quiet:
            raise ValueError("a table is quiet, which this kind does not know")
        if file.card["latents"] != len(tables.tables):
            raise ValueError(f"{file.card['latents']} latents, but {len(tables.tables)} tables")
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidModel(f"{file.path}: not a model of kind {KIND!r}: {error}") from error
    return TextbookBundle(file.path, file.members, file.card, cast("tuple[int, int, int]", tuple(image)), tables)


class Model:
    """The networks of a textbook model on arrays of images.

    Args:
        bundle: The model.
        threads: Threads of a network; None for as many as there are cores, or a task's share of them.
    """

    def __init__(self, bundle: TextbookBundle, threads: int | None = None) -> None:
        self.bundle = bundle
        self._networks = Networks(bundle, threads)

    def analyse(self, images: Images) -> Floats:
        """Images (n, h, w, c), uint8 -> latents (n, d) in bins, not rounded."""
        x = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(PEAK)
        return self._run(ENCODER, x, (self.bundle.latents,), x=x)

    def synthesise(self, y: Floats) -> Images:
        """Latents (n, d) in bins -> images (n, h, w, c)."""
        height, width, channels = self.bundle.image
        x = self._run(DECODER, y, (channels, height, width), y=y)
        return np.floor(np.clip(x, 0, 1) * PEAK + 0.5).astype(np.uint8).transpose(0, 2, 3, 1)

    def _run(self, graph: str, like: Floats, shape: tuple[int, ...], **inputs: Floats) -> Floats:
        """A graph over all rows, some at a time."""
        out = np.empty((len(like), *shape), np.float32)
        for start in range(0, len(like), _RUN_AT_ONCE):
            rows = slice(start, start + _RUN_AT_ONCE)
            part = self._networks.run(graph, **{name: value[rows] for name, value in inputs.items()})[0]
            if part.shape != out[rows].shape or not np.isfinite(part).all():
                raise InvalidModel(
                    f"{self.bundle.path}: {graph} gives {part.shape} for {out[rows].shape}, or no numbers"
                )
            out[rows] = part
        return out


def values_of(bundle: TextbookBundle, symbols: IntArray, level: int) -> Floats:
    """Symbols (n, d) -> latents (n, d) in bins."""
    values = np.empty(symbols.shape, np.float32, order="F")  # a latent at a time is filled
    for column, known in enumerate(bundle.at_level(level)[1]):
        radius = len(known) // 2
        places = symbols[:, column] + radius
        known_places = places.clip(0, 2 * radius)
        values[:, column] = known[known_places]
        if not np.array_equal(places, known_places):
            escaped = places != known_places
            values[escaped, column] = (places[escaped] - radius) * np.float32(step_of(level))
    return values
