"""The float networks: analysis g_a, synthesis g_s and hyper-analysis h_a.

Almost all work happens at 1/8 of the picture's size and lower, which is what makes a learned codec fast on a CPU.
"""

from __future__ import annotations

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.learn.config import Architecture
from calotype.learn.products import fast_type, linear
from calotype.manifest import LEVELS

PLAIN = (1.0, 1.0)
DIRECTIONS = (0, 1), (1, 0), (1, 1), (1, -1), (0, -1), (-1, 0), (-1, -1), (-1, 1)
MARGIN_PX = 2
"""How far around a pixel `Detail` looks."""
LARGE = 12 / 255, 3 / 255
"""From which difference on `Detail` begins to see an edge, at the lowest and the highest level."""
BLOCK_SCALES = {"a": (4.0, 4.0), "b": (0.25, 1.0), "c": PLAIN, "d": (4.0, 4.0), "e": (0.25, 1.0)}
"""What weight and bias of a block's layers are taken times: x sigmoid(4x) is u sigmoid(u) / 4 with u = 4x."""


class LevelVector(nn.Module):
    """A vector that depends on the level: knots, linearly interpolated over 0..255."""

    def __init__(self, knots: int, size: int, start: Tensor | None = None) -> None:
        super().__init__()
        self.knots = nn.Parameter(torch.zeros(knots, size) if start is None else start)
        position = torch.linspace(0, knots - 1, LEVELS)
        nearness = (1 - (position[:, None] - torch.arange(knots)[None]).abs()).clamp_min(0)
        self.nearness: Tensor
        self.register_buffer("nearness", nearness, persistent=False)

    def table(self) -> Tensor:
        """The vectors of all levels, (256, size)."""
        return self.nearness @ self.knots

    def forward(self, level: Tensor) -> Tensor:
        """The vectors of a batch of levels (b,), shaped (b, size, 1, 1)."""
        return (self.nearness[level] @ self.knots)[:, :, None, None]


class Linear1x1(nn.Module):
    """A 1x1 convolution: a matrix product, the channels being last in memory; in training its gradients are coarse."""

    def __init__(self, c_in: int, c_out: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in) * gain / c_in**0.5)
        self.bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, x: Tensor) -> Tensor:
        product = linear if self.training else F.linear
        return product(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class Block(nn.Module):
    """A residual block: depthwise 3x3 between two 1x1, then two 1x1 through twice the width (after DCVC-RT).

    Between them stands x sigmoid(4x), a smooth rectifier that is sharp at the small values of picture features.
    In training the branches run in what is fast (bfloat16, if the processor has it); the residual stream, which
    carries y's full range, stays float32.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = Linear1x1(width, width)
        self.b = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.c = Linear1x1(width, width, gain=0.1)
        self.d = Linear1x1(width, 2 * width)
        self.e = Linear1x1(2 * width, width, gain=0.1)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.training and fast_type(kind) is torch.bfloat16):
            x = x + self._scaled("c", self._depthwise(F.silu(self._scaled("a", x))))
            return x + self._scaled("e", self._widened(x))

    def _scaled(self, name: str, x: Tensor) -> Tensor:
        layer, (by_weight, by_bias) = getattr(self, name), BLOCK_SCALES[name]
        return F.linear(x.permute(0, 2, 3, 1), layer.weight * by_weight, layer.bias * by_bias).permute(0, 3, 1, 2)

    def _widened(self, x: Tensor) -> Tensor:
        return F.silu(self._scaled("d", x))

    def _depthwise(self, x: Tensor) -> Tensor:
        weight, bias = (p * scale for p, scale in zip(self.b.parameters(), BLOCK_SCALES["b"], strict=True))
        return F.conv2d(x, weight, bias, padding=self.b.padding, groups=len(weight))


def unshuffle(x: Tensor, block: int) -> Tensor:
    """F.pixel_unshuffle, with the channels last in memory: 1x1 convolutions are matrix products then."""
    x = x.unflatten(3, (-1, block)).unflatten(2, (-1, block))
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).permute(0, 3, 1, 2)


def shuffle(x: Tensor, block: int) -> Tensor:
    """F.pixel_shuffle, with the channels last in memory."""
    x = x.permute(0, 2, 3, 1).unflatten(3, (-1, block, block))
    return x.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def to_pixels(x: Tensor, block: int) -> Tensor:
    """F.pixel_shuffle, with the channels first in memory, as pictures have them."""
    x = x.permute(0, 2, 3, 1).unflatten(3, (-1, block, block))
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def as_shown(x_hat: Tensor) -> Tensor:
    """A synthesised picture as decoders show it, clipped to [-0.5, 0.5], with the gradient of the identity.

    What lies beyond is no error; what should lie within is still drawn back, which it would not be by a plain clip.
    """
    return x_hat + (x_hat.clamp(-0.5, 0.5) - x_hat).detach()


class Analysis(nn.Module):
    """g_a: picture (b, c, h, w) in [-0.5, 0.5] and level -> y (b, m, h/16, w/16) in units of the quantiser step.

    Beside the blocks, whose width bounds what they let through, a linear shortcut leads from the pixels to y (AuxT: Li
    et al., ICLR 2025). Without it the transforms alone lose more than the quantiser does at high qualities.
    """

    def __init__(self, arch: Architecture, log_gain: Tensor) -> None:
        super().__init__()
        self.stem = Linear1x1(64 * arch.channels, arch.width)
        self.blocks = nn.ModuleList(Block(arch.width) for _ in range(arch.blocks))
        self.feature_gain = LevelVector(arch.knots, arch.width)
        self.down = Linear1x1(4 * arch.width, arch.y_channels)
        self.shortcut = Linear1x1(256 * arch.channels, arch.y_channels, gain=0)
        self.gain = LevelVector(arch.knots, arch.y_channels, log_gain)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        direct = self.shortcut(unshuffle(x, 16))
        x = self.stem(unshuffle(x, 8))
        half = len(self.blocks) // 2
        for i, block in enumerate(self.blocks):
            if i == half:
                x = x * self.feature_gain(level).exp()
            x = block(x)
        y = self.down(unshuffle(x, 2)) + direct
        return y * self.gain(level).exp()


class Detail(nn.Module):
    """The last layers, at full size: differences between neighbours, limited, and what follows from those around.

    Small differences are noise and large ones edges, which blocks at 1/8 cannot tell apart pixel by pixel. Video codecs
    filter so after their synthesis (CDEF: Midtskogen and Valin 2018). What is small depends on the level.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        c, n = arch.channels, arch.detail
        self.differences = nn.Conv2d(c, n, 3)
        self.around = nn.Conv2d(n, n, 3, groups=n)
        self.out = nn.Conv2d(n, c, 1)
        log_large = torch.linspace(math.log(LARGE[0]), math.log(LARGE[1]), arch.knots)[:, None]
        self.scale_in = LevelVector(arch.knots, 1, -log_large)
        self.scale_out = LevelVector(arch.knots, 1, log_large)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Differences of each channel to its neighbours, and nothing made of them."""
        for p in (self.differences.bias, self.out.weight, self.out.bias):
            assert p is not None
            p.zero_()
        weight = self.differences.weight.mul_(0.05)
        for unit, ((down, right), channel) in zip(weight, product(DIRECTIONS, range(weight.shape[1])), strict=False):
            unit[channel, 1, 1] -= 1
            unit[channel, 1 + down, 1 + right] += 1

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        around = F.pad(x * self.scale_in(level).exp(), (MARGIN_PX,) * 4, mode="replicate")
        found = self.out(self.around(F.hardtanh(self.differences(around))))
        return x + found * self.scale_out(level).exp()


class Synthesis(nn.Module):
    """g_s: y_hat (b, m, h/16, w/16) and level -> picture (b, c, h, w); with a shortcut as g_a has, and details."""

    def __init__(self, arch: Architecture, log_gain: Tensor) -> None:
        super().__init__()
        self.gain = LevelVector(arch.knots, arch.y_channels, -log_gain)
        self.up = Linear1x1(arch.y_channels, 4 * arch.width)
        self.blocks = nn.ModuleList(Block(arch.width) for _ in range(arch.blocks))
        self.feature_gain = LevelVector(arch.knots, arch.width)
        self.head = Linear1x1(arch.width, 64 * arch.channels)
        self.shortcut = Linear1x1(arch.y_channels, 256 * arch.channels, gain=0)
        self.detail = Detail(arch) if arch.detail else None

    def forward(self, y_hat: Tensor, level: Tensor) -> Tensor:
        y_hat = y_hat * self.gain(level).exp()
        x = shuffle(self.up(y_hat), 2)
        half = len(self.blocks) // 2
        for i, block in enumerate(self.blocks):
            if i == half:
                x = x * self.feature_gain(level).exp()
            x = block(x)
        x = to_pixels(self.head(x), 8) + to_pixels(self.shortcut(y_hat), 16)
        return x if self.detail is None else self.detail(x, level)


class HyperAnalysis(nn.Module):
    """h_a: y (b, m, h, w) -> z (b, k, h/4, w/4). It sees y's logarithm, for y spans three decades over the levels."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width = arch.prior_width
        self.stem = Linear1x1(arch.y_channels, width)
        self.first = Block(width)
        self.down = Linear1x1(4 * width, width)
        self.second = Block(width)
        self.head = Linear1x1(4 * width, arch.z_channels)

    def forward(self, y: Tensor) -> Tensor:
        x = self.first(self.stem(y.sign() * torch.log1p(y.abs())))
        x = self.second(self.down(unshuffle(x, 2)))
        return self.head(unshuffle(x, 2))
