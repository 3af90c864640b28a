"""Refine the latents of a tile by gradient descent, with the decoder as it is.

g_a and h_a guess, for all pictures alike, latents that cost few bits and give back the picture. For one picture there
are better ones: those that minimise bits + lambda 255^2 (squared error) themselves. Rounding is annealed after Yang,
Bamler & Mandt, "Improving inference for neural image compression" (NeurIPS 2020): a value is drawn between its two
neighbouring integers, ever nearer to the nearest, and the gradient leads through the draw. Their draw is as random as a
choice between the two; far less noise, which ends with the descent, takes a third of the steps (docs/effort.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from calotype.bundle import Bundle
from calotype.coding import Tables
from calotype.learn.dyadic import STREAM_BITS, keep_rounded
from calotype.learn.model import Codec, lambda_of
from calotype.learn.restore import codec_of
from calotype.learn.transforms import as_shown
from calotype.tiling import Window

Floats = NDArray[np.float32]

Y_RATE, Z_RATE = 0.04, 0.02
RATE_STEPS = 50
"""The rates are of so many steps; n have sqrt(50 / n) of them."""
LAST_RATE = 0.1
"""A cosine leads the rates from their start to this part of it."""
TEMPERATURES = (0.5, 0.2)
NOISE = 1.0
"""At the start; it falls to 0."""
SEED = 0


@lru_cache(maxsize=2)
def _frozen(bundle: Bundle) -> Codec:
    codec = codec_of(bundle).requires_grad_(requires_grad=False)
    keep_rounded(codec)
    return codec


def draw(v: Tensor, temperature: float, noise: float, random: torch.Generator) -> Tensor:
    """A value between floor(v) and ceil(v), the colder the closer to the nearer one; its logit gets logistic noise."""
    low = torch.floor(v.detach())
    above = (v - low).clamp(1e-3, 1 - 1e-3)
    uniform = torch.rand(v.shape, generator=random).clamp(1e-6, 1 - 1e-6)
    nearer = (torch.atanh(above) - torch.atanh(1 - above)) / temperature
    return low + torch.sigmoid(nearer + noise * torch.logit(uniform))


class Costs:
    """What symbols cost in a bundle's tables, in bits, between the symbols as well: a broken line through them."""

    def __init__(self, tables: Tables) -> None:
        self.limit = int(tables.radii.max()) + 1
        self.last = len(tables.tables) - 1
        symbols = np.arange(-self.limit, self.limit + 2, dtype=np.int32)
        rows = [tables.cost_bits(symbols, np.full(symbols.shape, t, np.uint8)) for t in range(self.last + 1)]
        self.bits = torch.from_numpy(np.stack(rows))

    def __call__(self, v: Tensor, index: Tensor) -> Tensor:
        """Bits of v with table index; the gradient by the index is the slope between the tables beside it."""
        low = torch.floor(v.detach()).clamp(-self.limit, self.limit)
        place, above, at = (low + self.limit).long(), v - low, index.detach().long()

        def line(table: Tensor) -> Tensor:
            flat, start = self.bits.flatten(), table * self.bits.shape[1] + place
            return torch.lerp(flat[start], flat[start + 1], above)

        before, after = (at - 1).clamp_min(0), (at + 1).clamp_max(self.last)
        slope = ((line(after) - line(before)) / (after - before)).detach()
        return line(at) + slope * (index - index.detach())


class Objective:
    """What is minimised for a tile: bits, and the squared error at what it is worth at a level.

    Args:
        bundle: The model.
        window: The tile with what surrounds it.
        level: 0..255.
    """

    def __init__(self, bundle: Bundle, window: Window, level: int) -> None:
        self.codec = _frozen(bundle)
        self.level = torch.tensor([level])
        self.x = torch.from_numpy(window.x)[None]
        rows, columns = window.inner
        top, left, (height, width) = rows.start, columns.start, window.y.shape[1:]
        self.margins = (left, width - columns.stop, top, height - rows.stop)
        self.around = torch.from_numpy(window.y)[None].clone()
        self.around[:, :, rows, columns] = 0

        def row(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(array[level].astype(np.float32))[None, :, None, None]

        self.bias = row(bundle.level_bias) * 2.0**-STREAM_BITS
        self.z_mean, self.z_index = row(bundle.z_offset), row(bundle.z_table)
        self.costs = Costs(bundle.tables)
        self.worth_bits = float(lambda_of(self.codec.arch, self.level)) * 255**2 / len(window.x)

    def __call__(self, y: Tensor, z: Tensor, rounded: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss in bits, for y (1, m, 4a, 4b) and z (1, k, a, b)."""
        z_hat = rounded(z)
        y_hat, mean, index = self.codec.predict(y, self.codec.h_s.biased(z_hat, self.bias), lambda v, _: rounded(v))
        x_hat = self.codec.g_s(self.around + F.pad(y_hat, self.margins), self.level)
        shown = as_shown(x_hat[:, :, : self.x.shape[2], : self.x.shape[3]])
        if shown.shape[1] > self.x.shape[1]:  # of a grey picture
            shown = shown.mean(1, keepdim=True)
        error = shown - self.x
        z_bits = self.costs(z_hat - self.z_mean, self.z_index.expand_as(z_hat))
        rate_bits = z_bits.sum() + self.costs(y_hat - mean, index).sum()
        return rate_bits + self.worth_bits * error.square().sum()


def refine(bundle: Bundle, window: Window, z: Floats, level: int, iterations: int) -> tuple[Floats, Floats]:
    """Better latents for a tile, to be rounded as they are.

    Args:
        bundle: The model.
        window: The tile with what surrounds it.
        z: The hyper-latent (k, a, b) to start from.
        level: 0..255.
        iterations: Steps of the descent.

    Returns:
        y (m, 4a, 4b) and z (k, a, b).

    Raises:
        InvalidModel: If the bundle's graphs do not give back their weights.
    """
    objective = Objective(bundle, window, level)
    random = torch.Generator().manual_seed(SEED)
    y_part = np.ascontiguousarray(window.y[:, window.inner[0], window.inner[1]])
    latents = y, z_ = [torch.tensor(v)[None].requires_grad_() for v in (y_part, z)]
    descent = torch.optim.Adam([{"params": [v]} for v in latents], betas=(0.9, 0.99))
    rates = [rate * math.sqrt(RATE_STEPS / iterations) for rate in (Y_RATE, Z_RATE)]
    warmest, coldest = TEMPERATURES
    for i in range(iterations):
        part = i / max(1, iterations - 1)
        temperature, noise = warmest * (coldest / warmest) ** part, NOISE * (1 - part)
        fall = LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * part)) / 2
        for group, rate in zip(descent.param_groups, rates, strict=True):
            group["lr"] = rate * fall
        loss = objective(y, z_, lambda v, t=temperature, n=noise: draw(v, t, n, random))
        y.grad, z_.grad = torch.autograd.grad(loss, latents)
        descent.step()
    return y.detach()[0].numpy(), z_.detach()[0].numpy()
