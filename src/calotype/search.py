"""What an encoder spends time on: latents of a picture that cost less than the analysis's own (docs/effort.md).

The cost of latents is their bits and their squared error, which is worth lambda 255^2 bits, as in training. Both are
measured: by the tables, and by synthesis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from calotype.bundle import Bundle
from calotype.errors import OptionError
from calotype.manifest import HALO_PX
from calotype.prior import Chosen, choose
from calotype.quantise import BITS_PER_SQUARED_STEP, Quantiser, rate_aware, round_to_nearest
from calotype.runtime import Runtime
from calotype.tiling import Box, Floats, Window, padded, window_around

ROUNDS = {3: 1, 4: 2}
"""Corrections of y at an effort; more of them, and more weights, gained less than 0.05%."""
WEIGHTS = {3: (BITS_PER_SQUARED_STEP,), 4: (BITS_PER_SQUARED_STEP, 60.0)}
"""What a squared error of one step is worth, in bits: what is tried at an effort."""
ITERATIONS = {7: 50, 8: 150, 9: 500}
"""Steps of the refinement by gradient, at efforts that refine."""


@dataclass(frozen=True)
class Attempt:
    """Choices for each tile, with the picture's latent that they stand for and their cost in bits."""

    tiles: list[Chosen]
    y_hat: Floats
    x_hat: Floats
    cost_bits: float


@dataclass(frozen=True)
class Task:
    """A picture, or a block of one with what surrounds it, to be coded at a level.

    Attributes:
        runtime: The model's networks.
        x: The picture (c, h, w), padded.
        size_px: Its height and width without padding.
        boxes: The tiles to be coded. What surrounds them counts as coded without loss.
        level: 0..255.
        y: What the analysis makes of x (m, h/16, w/16).
    """

    runtime: Runtime
    x: Floats
    size_px: tuple[int, int]
    boxes: list[Box]
    level: int
    y: Floats

    def chosen(self, y: Floats, quantiser: Quantiser, z: list[Floats] | None = None) -> Iterator[Chosen]:
        """Choices for each tile of y; z of each tile is that of the hyper-analysis of the picture if not given."""
        for i, box in enumerate(self.boxes):
            part = np.ascontiguousarray(y[_place(box)])
            z_part = self.hyper(box) if z is None else z[i]
            yield choose(self.runtime, part, self.level, (box.height, box.width), quantiser, z_part)

    def hyper(self, box: Box) -> Floats:
        """Z of a tile, not yet rounded."""
        return self.runtime.hyper_analyse(np.ascontiguousarray(self.y[_place(box)]))

    def attempt(self, y: Floats, quantiser: Quantiser, z: list[Floats] | None = None) -> Attempt:
        """Choices for every tile of y, and what they cost."""
        tiles = list(self.chosen(y, quantiser, z))
        y_hat = self.y.copy()
        for box, tile in zip(self.boxes, tiles, strict=True):
            y_hat[_place(box)] = tile.latents.y_hat
        x_hat = self.runtime.synthesise(y_hat, self.level)
        error = sum(self._squared_error(x_hat, box) for box in self.boxes) / len(self.x)
        worth_bits = self.runtime.bundle.manifest.lambda_of(self.level) * 255**2
        tables = self.runtime.bundle.tables
        rate_bits = sum(float(tables.cost_bits(*part).sum()) for tile in tiles for part in tile.parts)
        return Attempt(tiles, y_hat, x_hat, rate_bits + worth_bits * error)

    def _squared_error(self, x_hat: Floats, box: Box) -> float:
        inside = (slice(None), *box.slices())
        return float(np.square(x_hat[inside].clip(-0.5, 0.5) - self.x[inside]).sum(dtype=np.float64))

    def corrected(self, attempt: Attempt) -> Floats:
        """A latent nearer to what the synthesis needs: y_hat, moved by what the analysis finds missing in x_hat."""
        return attempt.y_hat + self.y - self.runtime.analyse(attempt.x_hat, self.level)

    def window(self, box: Box, y: Floats) -> Window:
        """A tile of a latent with what surrounds it."""
        return window_around(self.x, y, self.size_px, box, HALO_PX)


def _place(box: Box) -> tuple[slice, slice, slice]:
    """Where a tile lies in y."""
    return slice(None), *Box(box.top, box.left, padded(box.height), padded(box.width)).slices(16)


def search(task: Task, effort: int) -> Iterator[Chosen]:
    """Choices for each tile, as good as the effort allows."""
    if effort <= 2:
        return task.chosen(task.y, rate_aware if effort == 2 else round_to_nearest)
    best = _best(_corrections(task, effort))
    if effort in ITERATIONS:
        best = _best(iter([best, *_refinements(task, best, ITERATIONS[effort])]))
    return iter(best.tiles)


def _best(attempts: Iterator[Attempt]) -> Attempt:
    return min(attempts, key=lambda attempt: attempt.cost_bits)


def _corrections(task: Task, effort: int) -> Iterator[Attempt]:
    """Attempts, each corrected by what the one before it missed, with each weight of an error."""
    tried = min(effort, max(WEIGHTS))
    z = [task.hyper(box) for box in task.boxes]
    for weight in WEIGHTS[tried]:
        quantiser, y = partial(rate_aware, bits_per_squared_step=weight), task.y
        for _ in range(ROUNDS[tried]):
            attempt = task.attempt(y, quantiser, z)
            yield attempt
            y = task.corrected(attempt)
        yield task.attempt(y, quantiser, z)


def _refinements(task: Task, best: Attempt, iterations: int) -> Iterator[Attempt]:
    """Attempts whose y and z were refined by gradient, from a corrected y on."""
    refine = _refine()
    y, z = task.corrected(best), list[Floats]()
    out = task.y.copy()
    for box in task.boxes:
        out[_place(box)], refined_z = refine(
            task.runtime.bundle, task.window(box, y), task.hyper(box), task.level, iterations
        )
        z.append(refined_z)
    for quantiser in (rate_aware, round_to_nearest):
        yield task.attempt(out, quantiser, z)


def _refine() -> Callable[[Bundle, Window, Floats, int, int], tuple[Floats, Floats]]:
    """The only way from here to PyTorch."""
    try:
        from calotype.learn.refine import refine
    except ModuleNotFoundError as error:
        raise OptionError(
            f"efforts from {min(ITERATIONS)} on refine by gradient descent and need {error.name}: "
            'pip install "calotype[learn]", or use a lower effort'
        ) from error
    return refine
