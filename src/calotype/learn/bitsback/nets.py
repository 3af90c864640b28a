"""Latent variable models of dyadic networks, whose ELBO is what bits-back coding spends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from calotype.bitsback.model import HALF
from calotype.learn.bitsback.tables import (
    GRID_BITS,
    MEANS,
    PRIOR_SCALE,
    SCALES,
    SHAPES,
    PixelCost,
    beta_binomials,
    scale_of,
)
from calotype.learn.dyadic import ACTIVATION, DyadicConv, activation, round_half_up, to_grid

INDEX_BITS, PIXEL_BITS = 3, 8
MEAN_LIMIT = HALF - 1
POSTERIOR_START = 0.6 * PRIOR_SCALE
PIXEL_START = 0.38 * MEANS, 0.5 * SHAPES


@dataclass(frozen=True)
class Architecture:
    """Sizes of a model.

    Attributes:
        image: Height, width and channels of the images.
        latents: Latents of each layer, the one that is decoded first first: one layer is a flat VAE.
        width: Units of each hidden layer.
        depth: Hidden layers of each network.
    """

    image: tuple[int, int, int] = (28, 28, 1)
    latents: tuple[int, ...] = (50,)
    width: int = 200
    depth: int = 1

    @property
    def pixels(self) -> int:
        """Samples of an image."""
        return math.prod(self.image)


class DyadicMlp(nn.Module):
    """Hidden layers of rectified units, and a head of two numbers for each output: a mean, and the index of a table.

    Inputs are integers up to 256 in magnitude, pixels and latents alike, on a grid of `in_bits`.
    """

    def __init__(self, c_in: int, c_out: int, arch: Architecture, in_bits: int, start: tuple[float, float]) -> None:
        super().__init__()
        self.in_bits = in_bits
        stem = DyadicConv(c_in, arch.width, in_bits, HALF)
        deeper = [DyadicConv(arch.width, arch.width, *ACTIVATION, gain=1.4) for _ in range(arch.depth - 1)]
        self.hidden = nn.ModuleList([stem, *deeper])
        self.head = DyadicConv(arch.width, 2 * c_out, *ACTIVATION, gain=0.3)
        for half, value in zip(self.head.bias.data.chunk(2), start, strict=True):
            half.fill_(value * 2.0**-INDEX_BITS)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Integers (b, c), joined -> two numbers for each output, (b, c_out), not yet rounded."""
        h = torch.cat(inputs, 1)[:, :, None, None] * 2.0**-self.in_bits
        for layer in self.hidden:
            h = activation(layer(h))
        mean, index = self.head(h).flatten(1).chunk(2, 1)
        return mean, index


def to_index(v: Tensor, count: int) -> Tensor:
    """The index of one of `count` tables."""
    return round_half_up(v * 2.0**INDEX_BITS).clamp(0, count - 1)


class Gaussian(NamedTuple):
    """A distribution of latents: means on the grid, and standard deviations of tables."""

    mean: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, mean: Tensor, index: Tensor) -> Gaussian:
        """From a network's two numbers."""
        sigma = scale_of(to_index(index, SCALES)) * 2.0**-GRID_BITS
        return cls(to_grid(mean, GRID_BITS, -MEAN_LIMIT, MEAN_LIMIT), sigma)

    def sample(self) -> Tensor:
        """A draw, as integers on the grid."""
        z = self.mean + self.sigma * torch.randn_like(self.sigma)
        return to_grid(z, GRID_BITS, -HALF, HALF - 1) * 2.0**GRID_BITS

    def kl_bits(self, prior: Gaussian) -> Tensor:
        """Divergence from a prior, (b,)."""
        ratio = (self.sigma.square() + (self.mean - prior.mean).square()) / prior.sigma.square()
        return 0.5 * (ratio - 1 - 2 * torch.log(self.sigma / prior.sigma)).sum(1) / math.log(2)


class Bits(NamedTuple):
    """What images cost, (b,): pixels given latents, and latents over their posterior; and the pixels' tables (b, d)."""

    pixels: Tensor
    latents: Tensor
    mean: Tensor
    shape: Tensor


class LatentModel(nn.Module):
    """A VAE with one layer of latents or several: p(z_0) p(z_1 | z_0) ... p(x | z), q(z_0 | x) q(z_1 | x, z_0) ...

    Posterior and prior meet in the same latents top-down, and every posterior sees the image: bidirectional inference.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        above = [sum(arch.latents[:layer]) for layer in range(len(arch.latents) + 1)]
        sizes = list(zip(above, arch.latents, strict=False))
        self.posteriors = nn.ModuleList(
            DyadicMlp(arch.pixels + known, size, arch, PIXEL_BITS, (0, POSTERIOR_START)) for known, size in sizes
        )
        self.priors = nn.ModuleList(
            DyadicMlp(known, size, arch, GRID_BITS, (0, PRIOR_SCALE)) for known, size in sizes[1:]
        )
        self.likelihood = DyadicMlp(above[-1], arch.pixels, arch, GRID_BITS, PIXEL_START)
        self.cost = PixelCost(beta_binomials())

    def forward(self, values: Tensor) -> Bits:
        """What images (b, d) of uint8 cost."""
        x = values.float()
        zs: list[Tensor] = []
        latent_bits = torch.zeros(len(values))
        for layer, posterior in enumerate(self.posteriors):
            q = Gaussian.of(*posterior(x, *zs))
            p = Gaussian.of(*self.priors[layer - 1](*zs)) if layer else _standard(q.mean)
            latent_bits = latent_bits + q.kl_bits(p)
            zs.append(q.sample())
        mean, shape = self.likelihood(*zs)
        mean, shape = to_index(mean, MEANS), to_index(shape, SHAPES)
        return Bits(self.cost(mean, shape, values).sum(1), latent_bits, mean, shape)


def _standard(like: Tensor) -> Gaussian:
    sigma = scale_of(torch.tensor(float(PRIOR_SCALE))) * 2.0**-GRID_BITS
    return Gaussian(torch.zeros_like(like), sigma.expand_as(like))
