"""The integer tables of a bits-back model: discretised Gaussians for latents, beta-binomials for pixels.

Both families are data of the model, so coding uses no floating point. Training sees the same tables: `lookup_bits`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calotype.bitsback.model import RING, VALUES
from calotype.coding import PRECISION_BITS
from calotype.learn.calibrate import to_frequencies

GRID_BITS = 5
"""Latents lie on the grid 2^-5, so the ring reaches over +-8 deviations of a standard normal."""
SCALES, SCALE_MIN, SCALE_MAX = 32, 0.35, 48.0
LOG_SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALES - 1)
MEANS, LOGIT_LIMIT = 64, 10.0
SHAPES, SHAPE_MIN, SHAPE_MAX = 16, 0.02, 200.0
TILTS = 10
SMALLEST_MASS = 2.0**-64

Frequencies = NDArray[np.uint32]


PRIOR_SCALE = round(math.log(2**GRID_BITS / SCALE_MIN) / LOG_SCALE_STEP)
"""The table of a standard normal."""


def scale_of(index: Tensor) -> Tensor:
    """The standard deviation of a latent's table, in steps of the grid."""
    return SCALE_MIN * torch.exp(index * LOG_SCALE_STEP)


def latent_tables() -> Frequencies:
    """Frequencies (scale, RING) of a Gaussian around the middle of the ring."""
    edges = torch.arange(RING + 1, dtype=torch.float64) - RING / 2 - 0.5
    scales = scale_of(torch.arange(SCALES, dtype=torch.float64))
    cumulative = torch.special.ndtr(edges / scales[:, None])
    return np.stack([to_frequencies(row) for row in cumulative.diff(dim=1).numpy()])


def beta_binomials() -> NDArray[np.float64]:
    """Probabilities (mean * SHAPES + shape, value) of beta-binomials of 255 trials."""
    mean = torch.sigmoid(torch.linspace(-LOGIT_LIMIT, LOGIT_LIMIT, MEANS, dtype=torch.float64))
    shape = torch.exp(torch.linspace(math.log(SHAPE_MIN), math.log(SHAPE_MAX), SHAPES, dtype=torch.float64))
    a = (mean[:, None] * shape).reshape(-1, 1)
    b = ((1 - mean)[:, None] * shape).reshape(-1, 1)
    x, n = torch.arange(VALUES, dtype=torch.float64), torch.tensor(VALUES - 1.0, dtype=torch.float64)

    def log_beta(p: Tensor, q: Tensor) -> Tensor:
        return torch.lgamma(p) + torch.lgamma(q) - torch.lgamma(p + q)

    choose = torch.lgamma(n + 1) - torch.lgamma(x + 1) - torch.lgamma(n - x + 1)
    return torch.exp(choose + log_beta(x + a, n - x + b) - log_beta(a, b)).numpy()


def tilted(masses: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """All tables times one weight for each value, so that values occur over all tables as often as they were counted.

    A beta-binomial is smooth; the values of real images are not: scanned and scaled ones prefer some.
    """
    for _ in range(TILTS):
        expected = counts.sum(1) @ masses
        masses = masses * ((counts.sum(0) + 1) / (expected + 1))
        masses = masses / masses.sum(1, keepdims=True)
    return masses


def pixel_tables(masses: NDArray[np.float64]) -> Frequencies:
    """Frequencies (table, VALUES) of masses, which need not sum to one."""
    return np.stack([to_frequencies(row) for row in masses])


class _Lookup(torch.autograd.Function):
    """Bits of values under tables, with central differences between tables as the gradient of their indices."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, shape: Tensor, values: Tensor, cost: Tensor, slopes: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        place = (mean.long() * SHAPES + shape.long()) * VALUES + values
        ctx.save_for_backward(place, slopes)
        return cost.flatten()[place]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        place, slopes = ctx.saved_tensors
        by_mean, by_shape = slopes.flatten(1)
        return gradient * by_mean[place], gradient * by_shape[place], None, None, None


class PixelCost(torch.nn.Module):
    """What each value costs in each table, in bits: exactly what the coder will spend.

    The slopes are those of the masses, which go on where the integers end: at 24 bits there is still a way down.

    Attributes:
        frequencies: The tables.
    """

    frequencies: Frequencies

    cost: Tensor
    slopes: Tensor

    def __init__(self, masses: NDArray[np.float64]) -> None:
        super().__init__()
        self.register_buffer("cost", torch.empty(MEANS, SHAPES, VALUES), persistent=False)
        self.register_buffer("slopes", torch.empty(2, MEANS, SHAPES, VALUES), persistent=False)
        self.use(masses)

    def use(self, masses: NDArray[np.float64]) -> None:
        """Take tables of these masses (table, VALUES), which need not sum to one."""
        self.frequencies = pixel_tables(masses)
        bits = PRECISION_BITS - np.log2(self.frequencies.astype(np.float64))
        self.cost.copy_(torch.from_numpy(bits.reshape(self.cost.shape)))
        ideal = -np.log2(np.maximum(masses / masses.sum(1, keepdims=True), SMALLEST_MASS)).reshape(self.cost.shape)
        for axis in (0, 1):
            self.slopes[axis].copy_(torch.from_numpy(np.gradient(ideal, axis=axis)))

    def forward(self, mean: Tensor, shape: Tensor, values: Tensor) -> Tensor:
        """Bits of each value (uint8) under the tables of integer mean and shape; all of one form."""
        return _Lookup.apply(mean, shape, values.long(), self.cost, self.slopes)  # pyright: ignore[reportReturnType]
