"""The prior: dyadic networks that turn z_hat, and the part of y_hat already known, into probability tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from calotype.hyper import Z_LIMIT
from calotype.learn.config import Architecture
from calotype.learn.dyadic import STREAM, DyadicBlock, DyadicConv, round_half_up, stream, to_grid
from calotype.learn.parts import places
from calotype.learn.transforms import LevelVector, shuffle
from calotype.quantise import LEAST_SAVED_BITS

SIGMA_MIN, SIGMA_MAX, SIGMA_COUNT = 0.11, 256.0, 127
TAIL = 2.0**-14
LEAST_MASS = 2.0**-30
MEAN_BITS = 3
INDEX_BITS = 4
MEAN_LIMIT = 1023 << MEAN_BITS
FINE_LIMIT, COARSE_LIMIT = 511, 127
MOST_WEIGHED = 16
START_INDEX = 36  # a table of scale 1


def log_sigma_step(count: int) -> float:
    """How far the logarithms of the scales of neighbouring tables lie apart, of so many."""
    return math.log(SIGMA_MAX / SIGMA_MIN) / (count - 1)


def sigma_of(index: Tensor) -> Tensor:
    """The scale of a table."""
    return SIGMA_MIN * torch.exp(index * log_sigma_step(SIGMA_COUNT))


def _gaussian_mass(v: Tensor, sigma: Tensor) -> Tensor:
    near, far = (v.abs() - 0.5) / (sigma * math.sqrt(2)), (v.abs() + 0.5) / (sigma * math.sqrt(2))
    return 0.5 * (torch.erfc(near) - torch.erfc(far))


def mass(v: Tensor, sigma: Tensor) -> Tensor:
    """Probability of the unit interval around v: a Gaussian over a faint wide one, for outliers."""
    return (1 - TAIL) * _gaussian_mass(v, sigma) + TAIL * _gaussian_mass(v, 4 * sigma + 2)


class _Bits(torch.autograd.Function):
    """-log2 of `mass`, with its derivatives found on the way: term by term they would take many passes over memory.

    Past 30 bits, where the value stops, they fade out.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, sigma: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        size, total = v.abs(), torch.zeros_like(v)
        by_size, by_sigma = torch.zeros_like(v), torch.zeros_like(v)
        for share, scale, widening in ((1 - TAIL, sigma, 1.0), (TAIL, 4 * sigma + 2, 4.0)):
            inverse = math.sqrt(0.5) / scale
            near, far = (size - 0.5).mul_(inverse), (size + 0.5).mul_(inverse)
            total.add_(torch.erfc(near).sub_(torch.erfc(far)), alpha=share / 2)
            near_density, far_density = (torch.exp(-x * x).mul_(inverse) for x in (near, far))
            by_size.add_(far_density - near_density, alpha=share / math.sqrt(math.pi))
            moved = near.mul_(near_density).sub_(far.mul_(far_density))
            by_sigma.add_(moved, alpha=share * widening * math.sqrt(2 / math.pi))
        total.clamp_min_(LEAST_MASS)
        by_mass = (-1 / math.log(2)) / total
        ctx.save_for_backward(by_size.mul_(by_mass).mul_(v.sign()), by_sigma.mul_(by_mass))
        return torch.log2(total).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        by_v, by_sigma = ctx.saved_tensors
        return gradient * by_v, gradient * by_sigma


def bits(v: Tensor, sigma: Tensor) -> Tensor:
    """Information content of v, in bits."""
    return _Bits.apply(*torch.broadcast_tensors(v, sigma))  # pyright: ignore[reportReturnType]


class RateAware(nn.Module):
    """Symbols as an encoder chooses them (`quantise.rate_aware`), with the gradient of the identity.

    Args:
        bits_per_squared_step: What a squared error of one step is worth.
    """

    def __init__(self, bits_per_squared_step: float) -> None:
        super().__init__()
        cost_bits = bits(torch.arange(MOST_WEIGHED + 1.0)[None], sigma_of(torch.arange(SIGMA_COUNT))[:, None])
        shifts = (cost_bits.diff() - LEAST_SAVED_BITS).clamp_min(0) / (2 * bits_per_squared_step)
        self.shifts: Tensor
        self.register_buffer("shifts", shifts, persistent=False)

    @torch.no_grad()
    def _chosen(self, residual: Tensor, index: Tensor) -> Tensor:
        """The nearest integers, or their neighbours nearer to zero where the bits saved outweigh the error."""
        size = residual.abs()
        q = torch.floor(size + 0.5)
        table, place = index.long().clamp(0, SIGMA_COUNT - 1), q.long().sub_(1).clamp_(0, MOST_WEIGHED - 1)
        shift = self.shifts.take(table.mul_(MOST_WEIGHED).add_(place))  # also of no number, which is looked for later
        smaller = (q - 0.5).add_(shift).gt(size)
        return q.sub_(smaller.float()).clamp_min_(0).mul_(residual.sign())

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
        r = shuffle(stream(self.up_coarse(self.coarse(r))), 2)
        r = shuffle(stream(self.up_middle(self.middle(r))), 2)
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
        self.head.bias.data[arch.y_channels :] = START_INDEX * 2.0**-INDEX_BITS

    def forward(self, features: Tensor, y_known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and table index of all elements, (b, m, h, w)."""
        return self._on_grids(self.head(self._seen(features, y_known)))

    def coded(self, features: Tensor, y_known: Tensor | None, spans: Sequence[slice]) -> tuple[Tensor, Tensor]:
        """Mean and table index of the elements that have these spans of channels, as `parts.of_step` gives them."""
        both = [p.unflatten(0, (2, -1)) for p in self.head.parts()]
        seen = places(self._seen(features, y_known))
        halves = ([p[:, span].flatten(0, 1) for p in both] for span in spans)
        head = [self.head.product(r, *parts) for r, parts in zip(seen, halves, strict=True)]
        return self._on_grids(torch.stack(head), axis=-1)

    def _seen(self, features: Tensor, y_known: Tensor | None) -> Tensor:
        r = features
        if self.known is not None:
            assert y_known is not None
            r = stream(r + self.known(planes(y_known)))
        for block in self.blocks:
            r = block(r)
        return r

    @staticmethod
    def _on_grids(head: Tensor, axis: int = 1) -> tuple[Tensor, Tensor]:
        mean, index = head.chunk(2, axis)
        table = to_grid(index * 2.0**INDEX_BITS, 0, 0, SIGMA_COUNT - 1)
        return to_grid(mean, MEAN_BITS, -MEAN_LIMIT, MEAN_LIMIT), table
