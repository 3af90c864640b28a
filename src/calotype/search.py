"""What an encoder spends time on: latents of a picture that cost less than the analysis's own (docs/effort.md).

The cost of latents is their bits and their squared error, which is worth lambda 255^2 bits, as in training. Both are
measured: by the tables, and by synthesis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from calotype import pixels, postfilter
from calotype.bundle import Bundle
from calotype.errors import OptionError
from calotype.postfilter import NO_WEIGHTS, Weights
from calotype.prior import Chosen, choose
from calotype.quantise import BITS_PER_SQUARED_STEP, Quantiser, rate_aware, round_to_nearest, with_dead_zone
from calotype.runtime import Runtime
from calotype.tiling import Box, Floats, Window, padded

ROUNDS = {3: 0, 4: 1, 5: 2}
"""Corrections of y at an effort; more of them, and more weights, gained less than 0.05%."""
WEIGHTS = {3: (BITS_PER_SQUARED_STEP,), 4: (BITS_PER_SQUARED_STEP,), 5: (BITS_PER_SQUARED_STEP, 60.0)}
"""What a squared error of one step is worth, in bits: what is tried at an effort."""
ITERATIONS = {7: 50, 8: 150, 9: 500}
"""Steps of the refinement by gradient, at efforts that refine."""


@dataclass(frozen=True)
class Attempt:
    """Choices for a tile, with the latent and the picture that they stand for, and their cost in bits."""

    chosen: Chosen
    y_hat: Floats
    x_hat: Floats
    cost_bits: float


@dataclass(frozen=True)
class Task:
    """A tile of a picture, with what surrounds it as far as it matters, to be coded at a level.

    Attributes:
        runtime: The model's networks.
        x: The pixels (c, h, w), padded.
        size_px: Their height and width without padding.
        box: Where the tile lies among them. What surrounds it counts as coded without loss.
        level: 0..255.
        y: What the analysis makes of x (m, h/16, w/16).
        channels: Those of the picture: of a grey one, x has it thrice.
    """

    runtime: Runtime
    x: Floats
    size_px: tuple[int, int]
    box: Box
    level: int
    y: Floats
    channels: int

    @property
    def place(self) -> tuple[slice, slice, slice]:
        """Where the tile lies in y."""
        box = self.box
        return slice(None), *Box(box.top, box.left, padded(box.height), padded(box.width)).slices(16)

    @property
    def worth_bits(self) -> float:
        """What a squared error of 1 in one sample is worth."""
        return self.runtime.bundle.manifest.lambda_of(self.level) * 255**2 / self.channels

    @property
    def filtered(self) -> bool:
        """Whether the file may have a post-filter."""
        return len(self.x) == postfilter.CHANNELS

    def chosen(self, y: Floats, quantiser: Quantiser, z: Floats) -> Chosen:
        """Choices for the tile, of y and of z."""
        part = np.ascontiguousarray(y[self.place])
        return choose(self.runtime, part, self.level, (self.box.height, self.box.width), quantiser, z)

    def hyper(self) -> Floats:
        """Z of the tile, not yet rounded."""
        return self.runtime.hyper_analyse(np.ascontiguousarray(self.y[self.place]))

    def attempt(self, y: Floats, quantiser: Quantiser, z: Floats) -> Attempt:
        """Choices for the tile, and what they cost."""
        chosen, y_hat = self.chosen(y, quantiser, z), self.y.copy()
        y_hat[self.place] = chosen.latents.y_hat
        x_hat = self.runtime.synthesise(y_hat, self.level).clip(-0.5, 0.5)  # as decoders show it
        inside = (slice(None), *self.box.slices())
        missed = pixels.shown(x_hat[inside], self.channels) - self.x[: self.channels][inside]
        error = float(np.square(missed).sum(dtype=np.float64))
        tables = self.runtime.bundle.tables
        rate_bits = sum(float(tables.cost_bits(*part).sum()) for part in chosen.parts)
        return Attempt(chosen, y_hat, x_hat, rate_bits + self.worth_bits * error)

    def corrected(self, attempt: Attempt) -> Floats:
        """A latent nearer to what the synthesis needs: y_hat, moved by what the analysis finds missing in x_hat."""
        return attempt.y_hat + self.y - self.runtime.analyse(attempt.x_hat, self.level)

    def postfilter(self, attempt: Attempt) -> Weights:
        """What takes the most of the error that an attempt leaves, for its bits."""
        if not self.filtered:
            return NO_WEIGHTS
        return postfilter.fit(self.x[: self.channels], attempt.x_hat, self.box, self.worth_bits)

    def window(self, y: Floats) -> Window:
        """The tile of another latent, with what surrounds it."""
        height, width = self.size_px
        return Window(np.ascontiguousarray(self.x[: self.channels, :height, :width]), y, self.place[1:])


def search(task: Task, effort: int) -> tuple[Chosen, Weights]:
    """Choices for the tile, as good as the effort allows, and the weights of its post-filter."""
    if effort <= 2 or (effort == 3 and not task.filtered):
        return task.chosen(task.y, rate_aware if effort > 1 else with_dead_zone, task.hyper()), NO_WEIGHTS
    best = _best(_corrections(task, effort))
    if effort in ITERATIONS:
        best = _best(iter([best, *_refinements(task, best, ITERATIONS[effort])]))
    return best.chosen, task.postfilter(best)


def _best(attempts: Iterator[Attempt]) -> Attempt:
    return min(attempts, key=lambda attempt: attempt.cost_bits)


def _corrections(task: Task, effort: int) -> Iterator[Attempt]:
    """Attempts, each corrected by what the one before it missed, with each weight of an error."""
    tried, z = min(effort, max(WEIGHTS)), task.hyper()
    for weight in WEIGHTS[tried]:
        quantiser, y = partial(rate_aware, bits_per_squared_step=weight), task.y
        for _ in range(ROUNDS[tried]):
            attempt = task.attempt(y, quantiser, z)
            yield attempt
            y = task.corrected(attempt)
        yield task.attempt(y, quantiser, z)


def _refinements(task: Task, best: Attempt, iterations: int) -> Iterator[Attempt]:
    """Attempts whose y and z were refined by gradient, from a corrected y on."""
    window, y = task.window(task.corrected(best)), task.y.copy()
    y[task.place], z = _refine()(task.runtime.bundle, window, task.hyper(), task.level, iterations)
    for quantiser in (rate_aware, round_to_nearest):
        yield task.attempt(y, quantiser, z)


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
