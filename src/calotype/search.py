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
from calotype.postfilter import NO_WEIGHTS, Sample, Weights
from calotype.prior import Chosen, choose
from calotype.quantise import BITS_PER_SQUARED_STEP, Quantiser, rate_aware, round_to_nearest
from calotype.runtime import Runtime
from calotype.tiling import Box, Floats, Window, padded

QUICK_EFFORT = 2
"""Up to it, latents are chosen once, and a filter is fitted to parts of a tile."""
BANDS, BAND_PX, BAND_MARGIN_PX = 3, 96, 8
"""How many columns stand for a wider tile, how wide they are, and how much of that at either side does not count."""
BANDS_ENOUGH_PX = 1 << 16
BANDS_BITS_A_WEIGHT = 16
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
        head: The model's head that it is coded for.
    """

    runtime: Runtime
    x: Floats
    size_px: tuple[int, int]
    box: Box
    level: int
    y: Floats
    channels: int
    head: int

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
        """Whether the file may have a post-filter: it lowers the squared error, which other heads are not after."""
        return self.head == 0 and len(self.x) == postfilter.CHANNELS

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
        sample = Sample(self.x[: self.channels], attempt.x_hat, self.box)
        return postfilter.fit(self.runtime.products, [sample], self.box.height * self.box.width, self.worth_bits)

    def quick_choice(self) -> Chosen:
        """The analysis's own latents."""
        return self.chosen(self.y, rate_aware, self.hyper())

    def quick_postfilter(self, chosen: Chosen) -> Weights:
        """Nearly what `postfilter` finds, for a third of its time, from bands of the tile."""
        if not self.filtered:
            return NO_WEIGHTS
        return postfilter.fit(
            self.runtime.products,
            list(self._bands(chosen)),
            self.box.height * self.box.width,
            self.worth_bits,
            enough_px=BANDS_ENOUGH_PX,
            bits_a_weight=BANDS_BITS_A_WEIGHT,
        )

    def _bands(self, chosen: Chosen) -> Iterator[Sample]:
        """Bands from the tile's top to its bottom, synthesised side by side in one piece."""
        x, y_hat = self.x[: self.channels, self.box.top :, self.box.left :], chosen.latents.y_hat
        columns, margin_px = _columns(self.box.width)
        parts = [y_hat[:, :, seen.start // 16 : seen.stop // 16] for seen in columns]
        x_hat = self.runtime.synthesise(np.concatenate(parts, axis=2), self.level).clip(-0.5, 0.5)
        for seen, part in zip(columns, np.split(x_hat, len(columns), axis=2), strict=True):
            width = min(seen.stop, self.box.width) - seen.start - 2 * margin_px
            yield Sample(x[:, : part.shape[1], seen], part, Box(0, margin_px, self.box.height, width))

    def window(self, y: Floats) -> Window:
        """The tile of another latent, with what surrounds it."""
        height, width = self.size_px
        return Window(np.ascontiguousarray(self.x[: self.channels, :height, :width]), y, self.place[1:])


def _columns(width_px: int) -> tuple[list[slice], int]:
    """Columns that stand for a tile, in whole steps of y, and how many of their pixels at either side do not count."""
    if width_px <= BANDS * BAND_PX:
        return [slice(0, padded(width_px))], 0
    lefts = [((2 * i + 1) * width_px // (2 * BANDS) - BAND_PX // 2) // 16 * 16 for i in range(BANDS)]
    return [slice(left, left + BAND_PX) for left in lefts], BAND_MARGIN_PX


def search(task: Task, effort: int) -> tuple[Chosen, Weights]:
    """Choices for the tile, as good as the effort allows, and the weights of its post-filter."""
    if effort <= QUICK_EFFORT or (effort == 3 and not task.filtered):
        chosen = task.quick_choice()
        return chosen, task.quick_postfilter(chosen)
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
