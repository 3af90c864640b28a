"""The whole codec as one differentiable model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from calotype.hyper import Z_LIMIT
from calotype.learn.config import Architecture
from calotype.learn.dyadic import round_half_up
from calotype.learn.parts import assembled, of_step, places
from calotype.learn.prior import HyperPrior, HyperSynthesis, RateAware, StepPrior, bits, sigma_of
from calotype.learn.transforms import Analysis, HyperAnalysis, Synthesis
from calotype.manifest import LEVELS
from calotype.quantise import BITS_PER_SQUARED_STEP
from calotype.steps import spans_of


def lambda_of(arch: Architecture, level: Tensor) -> Tensor:
    """The weight of the distortion at a level: log-spaced from lambda_min to lambda_max."""
    return arch.lambda_min * (arch.lambda_max / arch.lambda_min) ** (level / (LEVELS - 1))


def start_log_gain(arch: Architecture) -> Tensor:
    """log(1 / step) at each knot, for the step that is optimal at high rate: sqrt(lambda 255^2 ln 2 / 6c)."""
    lam = lambda_of(arch, torch.linspace(0, LEVELS - 1, arch.knots))
    gain = (lam * 255**2 * math.log(2) / (6 * arch.channels)).sqrt()
    return gain.log()[:, None].repeat(1, arch.y_channels)


def within(size_px: Tensor, v: Tensor, scale: int = 1) -> Tensor:
    """Which places of v (b, c, h, w), at 1/scale, show some of pictures of height and width size_px (b, 2)."""
    height, width = size_px.T[:, :, None]
    row, column = (scale * torch.arange(count, device=v.device) for count in v.shape[2:])
    return ((row < height)[:, :, None] & (column < width)[:, None])[:, None]


def _only(v: Tensor, kept: Tensor | None) -> Tensor:
    """V where it is kept, else 0."""
    return v if kept is None else v * kept


@dataclass(frozen=True)
class Coded:
    """What coding a batch gives: the picture, and the bits of each picture in y and z (b,)."""

    x_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor


class Codec(nn.Module):
    """Analysis, hyper-prior, dyadic prior in steps and synthesis (mean-scale hyperprior, Minnen et al. 2018)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        log_gain = start_log_gain(arch)
        self.g_a = Analysis(arch, log_gain)
        self.g_s = Synthesis(arch, log_gain.clone())
        self.symbols = RateAware(BITS_PER_SQUARED_STEP)
        self.h_a = HyperAnalysis(arch)
        self.h_s = HyperSynthesis(arch)
        self.z_prior = HyperPrior(arch)
        later = (StepPrior(arch, arch.context_blocks, sees_y=True) for _ in range(arch.context_steps - 1))
        self.steps = nn.ModuleList([StepPrior(arch, 1, sees_y=False), *later])

    def forward(self, x: Tensor, level: Tensor, size_px: Tensor | None = None) -> Coded:
        """Code pictures x (b, c, h, w) in [-0.5, 0.5] at levels (b,).

        In training, noise stands for rounding in the rate. If only `size_px` (b, 2) of each is picture, and the rest
        padding, elements of y and z that show nothing of it are not coded (SPEC.md, section 3).
        """
        y = self.g_a(x, level)
        z = self.h_a(y)
        y_coded, z_coded = (None if size_px is None else within(size_px, v, scale) for v, scale in ((y, 16), (z, 64)))
        z_hat = _only(round_half_up(z).clamp(-Z_LIMIT, Z_LIMIT), z_coded)
        y_hat, mean, index = self.predict(y, self.h_s(z_hat, level), coded=y_coded)
        y_bits = _only(bits(self._seen(y, y_hat) - mean, sigma_of(index)), y_coded)
        z_bits = _only(self.z_prior(self._seen(z, z_hat), level), z_coded)
        return Coded(self.g_s(y_hat, level), y_bits.sum((1, 2, 3)), z_bits.sum((1, 2, 3)))

    def predict(
        self,
        y: Tensor,
        features: Tensor,
        rounded: Callable[[Tensor, Tensor], Tensor] | None = None,
        coded: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Round y step by step: y_hat, and the means and table indices that each element is coded with.

        `rounded` makes symbols of residuals and table indices; an encoder's choice by rate if not given. Elements that
        are not `coded` (b, 1, h, w) are their means.
        """
        rounded = rounded or self.symbols
        coded_places = None if coded is None else places(coded)
        spans = spans_of(len(self.steps), y.shape[1])
        known, means, indices = list[Tensor](), list[Tensor](), list[Tensor]()
        for now, prior in zip(spans, self.steps, strict=True):
            assert isinstance(prior, StepPrior)
            mean, index = prior.coded(features, assembled(known, spans) if known else None, now)
            known.append(mean + _only(rounded(of_step(y, now) - mean, index), coded_places))
            means.append(mean)
            indices.append(index)
        y_hat, mean, index = (assembled(parts, spans) for parts in (known, means, indices))
        return y_hat, mean, index

    def _seen(self, v: Tensor, v_hat: Tensor) -> Tensor:
        return v + torch.rand_like(v) - 0.5 if self.training else v_hat
