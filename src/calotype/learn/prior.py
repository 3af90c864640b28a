"""The prior: dyadic networks that turn z_hat, and the part of y_hat already known, into probability tables."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.learn.config import Architecture
from calotype.learn.dyadic import STREAM, DyadicBlock, DyadicConv, round_half_up, stream, to_grid
from calotype.learn.transforms import LevelVector
from calotype.prior import Z_LIMIT

SIGMA_MIN, SIGMA_MAX, SIGMA_COUNT = 0.11, 256.0, 64
LOG_SIGMA_STEP = math.log(SIGMA_MAX / SIGMA_MIN) / (SIGMA_COUNT - 1)
TAIL = 2.0**-14
MEAN_BITS = 3
MEAN_LIMIT = 1023 << MEAN_BITS
FINE_LIMIT, COARSE_LIMIT = 511, 127
MOST_WEIGHED = 16
START_INDEX = 18  # a table of scale 1


def sigma_of(index: Tensor) -> Tensor:
    """The scale of a table."""
    return SIGMA_MIN * torch.exp(index * LOG_SIGMA_STEP)


def _gaussian_mass(v: Tensor, sigma: Tensor) -> Tensor:
    near, far = (v.abs() - 0.5) / (sigma * math.sqrt(2)), (v.abs() + 0.5) / (sigma * math.sqrt(2))
    return 0.5 * (torch.erfc(near) - torch.erfc(far))


def mass(v: Tensor, sigma: Tensor) -> Tensor:
    """Probability of the unit interval around v: a Gaussian over a faint wide one, for outliers."""
    return (1 - TAIL) * _gaussian_mass(v, sigma) + TAIL * _gaussian_mass(v, 4 * sigma + 2)


def bits(v: Tensor, sigma: Tensor) -> Tensor:
    """Information content of v, in bits."""
    return -torch.log2(mass(v, sigma).clamp_min(2.0**-30))


class RateAware(nn.Module):
    """Symbols as an encoder chooses them (`quantise.rate_aware`), with the gradient of the identity.

    Args:
        bits_per_squared_step: What a squared error of one step is worth.
    """

    def __init__(self, bits_per_squared_step: float) -> None:
        super().__init__()
        cost_bits = bits(torch.arange(MOST_WEIGHED + 1.0)[None], sigma_of(torch.arange(SIGMA_COUNT))[:, None])
        shifts = cost_bits.diff().clamp_min(0) / (2 * bits_per_squared_step)
        self.shifts: Tensor
        self.register_buffer("shifts", shifts, persistent=False)

    @torch.no_grad()
    def _chosen(self, residual: Tensor, index: Tensor) -> Tensor:
        """The nearest integers, or their neighbours nearer to zero where the bits saved outweigh the error."""
        size = residual.abs()
        q = torch.floor(size + 0.5)
        table, place = index.long().clamp(0, SIGMA_COUNT - 1), (q - 1).long().clamp(0, MOST_WEIGHED - 1)
        shift = self.shifts[table, place]  # also of what is no number, which training looks for later
        return residual.sign() * (q - (size < q - 0.5 + shift).float()).clamp_min(0)

    def forward(self, residual: Tensor, index: Tensor) -> Tensor:
        """Symbols for residuals y - mean that are coded with these tables."""
        return residual + (self._chosen(residual, index) - residual).detach()


class HyperPrior(nn.Module):
    """Distribution of z: a (mean, table) for each level and channel."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.mean = LevelVector(arch.knots, arch.z_channels)
        self.log_sigma = LevelVector(arch.knots, arch.z_channels)

    def forward(self, z: Tensor, level: Tensor) -> Tensor:
        """Bits of each element of z."""
        mean = round_half_up(self.mean(level))
        sigma = self.log_sigma(level).clamp(math.log(SIGMA_MIN), math.log(SIGMA_MAX)).exp()
        return bits(z - mean, sigma)


class HyperSynthesis(nn.Module):
    """h_s: z_hat (b, k, h/4, w/4) and level -> features of the prior (b, p, h, w)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width = arch.prior_width
        self.level = LevelVector(arch.knots, width)
        self.stem = DyadicConv(arch.z_channels, width, MEAN_BITS, Z_LIMIT)
        self.coarse = DyadicBlock(width)
        self.up_coarse = DyadicConv(width, 4 * width, *STREAM)
        self.middle = DyadicBlock(width)
        self.up_middle = DyadicConv(width, 4 * width, *STREAM)
        self.fine = DyadicBlock(width)

    def forward(self, z_hat: Tensor, level: Tensor) -> Tensor:
        return self.biased(z_hat, stream(self.level(level)))

    def biased(self, z_hat: Tensor, bias: Tensor) -> Tensor:
        """The features, for what a bundle stores as the bias of the level (b, p, 1, 1)."""
        z_hat = z_hat.clamp(-Z_LIMIT, Z_LIMIT) * 2.0**-MEAN_BITS
        r = stream(self.stem(z_hat) + bias)
        r = F.pixel_shuffle(stream(self.up_coarse(self.coarse(r))), 2)
        r = F.pixel_shuffle(stream(self.up_middle(self.middle(r))), 2)
        return self.fine(r)


def planes(y_hat: Tensor) -> Tensor:
    """y_hat as a fine plane of +-63.875 and a coarse one of +-508, both on the grid 1/8 (b, 2m, h, w)."""
    fine = to_grid(y_hat, MEAN_BITS, -FINE_LIMIT, FINE_LIMIT)
    coarse = to_grid(y_hat / 4, 0, -COARSE_LIMIT, COARSE_LIMIT) * 2.0**-MEAN_BITS
    return torch.cat([fine, coarse], 1)


class StepPrior(nn.Module):
    """One step: features, and y_hat as far as it is known, -> mean and table index of each element of y."""

    def __init__(self, arch: Architecture, blocks: int, *, sees_y: bool) -> None:
        super().__init__()
        width = arch.prior_width
        self.known = DyadicConv(2 * arch.y_channels, width, MEAN_BITS, FINE_LIMIT) if sees_y else None
        self.blocks = nn.ModuleList(DyadicBlock(width) for _ in range(blocks))
        self.head = DyadicConv(width, 2 * arch.y_channels, *STREAM, gain=0.3)
        self.head.bias.data[arch.y_channels :] = START_INDEX / 8

    def forward(self, features: Tensor, y_known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r = features
        if self.known is not None:
            assert y_known is not None
            r = stream(r + self.known(planes(y_known)))
        for block in self.blocks:
            r = block(r)
        mean, index = self.head(r).chunk(2, 1)
        mean = to_grid(mean, MEAN_BITS, -MEAN_LIMIT, MEAN_LIMIT)
        return mean, round_half_up(index * 8).clamp(0, SIGMA_COUNT - 1)
