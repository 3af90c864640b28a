"""Flat VAE of dyadic layers, whose ELBO is what bits-back coding spends."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from calotype.learn.bitsback.tables import (
    GRID_BITS, MEANS, RING, SCALE_MIN, SCALES, SHAPES, LOG_SCALE_STEP, PixelCost, beta_binomials, pixel_tables, scale_of,
)
from calotype.learn.dyadic import ACTIVATION, DyadicConv, activation, round_half_up, to_grid

PIXEL = PIXEL_BITS, PIXEL_LIMIT = 8, 255
LATENT = GRID_BITS, RING // 2
MEAN_LIMIT = RING // 2 - 1
PRIOR_SCALE = round(math.log(2**GRID_BITS / SCALE_MIN) / LOG_SCALE_STEP)
INDEX_BITS = 3
INDEX_GAIN = 2.0**INDEX_BITS


class Bits(NamedTuple):
    pixels: Tensor
    latents: Tensor


class DenseVae(nn.Module):
    def __init__(self, pixels: int = 784, hidden: int = 200, latents: int = 50) -> None:
        super().__init__()
        self.latents, self.pixels = latents, pixels
        self.e1 = DyadicConv(pixels, hidden, *PIXEL)
        self.e2 = DyadicConv(hidden, 2 * latents, *ACTIVATION, gain=0.5)
        self.e2.bias.data[latents:] = 22 / INDEX_GAIN
        self.d1 = DyadicConv(latents, hidden, *LATENT)
        self.d2 = DyadicConv(hidden, 2 * pixels, *ACTIVATION, gain=0.3)
        self.d2.bias.data[:pixels] = 0.38 * MEANS / INDEX_GAIN
        self.d2.bias.data[pixels:] = 0.5 * SHAPES / INDEX_GAIN
        self.cost = PixelCost(pixel_tables(beta_binomials()))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self.e2(activation(self.e1(x))).chunk(2, 1)
        mean = to_grid(mean, GRID_BITS, -MEAN_LIMIT, MEAN_LIMIT)
        return mean, round_half_up(scale * INDEX_GAIN).clamp(0, SCALES - 1)

    def likelihood(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, shape = self.d2(activation(self.d1(z))).chunk(2, 1)
        return round_half_up(mean * INDEX_GAIN).clamp(0, MEANS - 1), round_half_up(shape * INDEX_GAIN).clamp(0, SHAPES - 1)

    def forward(self, values: Tensor) -> Bits:
        x = values.float()[:, :, None, None] / 256
        mean, scale = self.posterior(x)
        sigma = scale_of(scale) * 2.0**-GRID_BITS
        z = to_grid(mean + sigma * torch.randn_like(sigma), GRID_BITS, -RING // 2, RING // 2 - 1)
        kl = 0.5 * (mean**2 + sigma**2 - 1) - torch.log(sigma)
        u, v = self.likelihood(z)
        bits = self.cost(u.flatten(1), v.flatten(1), values)
        return Bits(bits.sum(1), kl.flatten(1).sum(1) / math.log(2))
