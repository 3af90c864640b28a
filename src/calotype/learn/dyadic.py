"""Dyadic layers: every weight, bias and activation is an integer times a power of two.

Float32 then computes these layers exactly, in whatever order a machine sums (SPEC.md, "Dyadic layers"), so that encoder
and decoder agree on every probability. In training, rounding passes the gradient straight through.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from calotype.learn.products import coarse_linear

STREAM = STREAM_BITS, STREAM_LIMIT = 5, 512
"""The residual stream lies on the grid 2^-5, within the 10-bit integers -512..511."""
ACTIVATION = ACTIVATION_BITS, ACTIVATION_LIMIT = 5, 255
"""Activations lie on the grid 2^-5, within the 8-bit integers 0..255."""
WEIGHT_LIMIT = 127
MAX_SHIFT = 10
MIN_SHIFT = -2
BIAS_LIMIT = 1 << 20
PRODUCT_LIMIT = (1 << 23) - (1 << 18)  # what rounding 896 weights half up can add is left over


def round_half_up(v: Tensor) -> Tensor:
    """floor(v + 1/2), with the gradient of the identity."""
    return v + (torch.floor(v + 0.5) - v).detach()


JUST_OVER_HALF = 0.500001


class _ToGrid(torch.autograd.Function):
    """Rounding and clipping in as few passes over memory as there are: they take more time than the products do."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, bits: int, lo: int, hi: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(v)
        ctx.within = (lo - JUST_OVER_HALF) * 2.0**-bits, (hi + 0.5) * 2.0**-bits  # halves are rounded up
        return (v * 2.0**bits).add_(0.5).floor_().clamp_(lo, hi).mul_(2.0**-bits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (v,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, v, *ctx.within), None, None, None


def to_grid(v: Tensor, bits: int, lo: int, hi: int) -> Tensor:
    """The nearest integer times 2^-bits, the integer clipped to lo..hi; the gradient of the identity between them."""
    return _ToGrid.apply(v, bits, lo, hi)  # pyright: ignore[reportReturnType]


def stream(v: Tensor) -> Tensor:
    """A value of the residual stream: 10 bits, signed."""
    return to_grid(v, STREAM_BITS, -STREAM_LIMIT, STREAM_LIMIT - 1)


def activation(v: Tensor) -> Tensor:
    """A rectified activation: 8 bits."""
    return to_grid(v, ACTIVATION_BITS, 0, ACTIVATION_LIMIT)


class DyadicConv(nn.Module):
    """A 1x1 or depthwise 3x3 convolution with weights k * 2^-s, |k| <= 127, and one s for each output channel.

    Inputs are integers up to `in_limit` times 2^-`in_bits`, so products lie on the grid 2^-(s + in_bits), and so does
    the bias. s is chosen so that the products of a channel sum to at most 2^23 there; with the bias (2^20) and the
    residual (2^19) that proves the bound of 2^24 under which float32 is exact.

    Attributes:
        exact: Whether weights are rounded; a run may begin without.
    """

    exact = True

    def __init__(
        self, c_in: int, c_out: int, in_bits: int, in_limit: int, *, depthwise: bool = False, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.in_bits, self.in_limit = in_bits, in_limit
        self.groups = c_in if depthwise else 1
        shape = (c_out, 1, 3, 3) if depthwise else (c_out, c_in)
        fan_in = 9 if depthwise else c_in
        self.weight = nn.Parameter(torch.randn(shape) * gain / fan_in**0.5)
        self.bias = nn.Parameter(torch.zeros(c_out))

    def shifts(self) -> Tensor:
        """The shift of each output channel: the finest grid on which weights fit and products keep the bound."""
        magnitude = self.weight.detach().abs().flatten(1)
        fits = WEIGHT_LIMIT / magnitude.amax(1).clamp_min(1e-12)
        bounded = PRODUCT_LIMIT / (self.in_limit * magnitude.sum(1)).clamp_min(1e-12)
        return torch.floor(torch.log2(torch.minimum(fits, bounded))).clamp(MIN_SHIFT, MAX_SHIFT)

    def integers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights k, biases b and shifts s: the layer is 2^-s (k * x) + 2^-(s + in_bits) b."""
        s = self.shifts()
        k = (self.weight.detach().flatten(1) * 2.0 ** s[:, None]).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
        b = (self.bias.detach() * 2.0 ** (s + self.in_bits)).round().clamp(-BIAS_LIMIT, BIAS_LIMIT)
        return k.reshape(self.weight.shape), b, s

    def part(self, outputs: Tensor | None = None, inputs: Tensor | None = None) -> DyadicConv:
        """The layer with some of its outputs, or of its inputs, alone."""
        part = deepcopy(self)
        weight = self.weight if inputs is None else self.weight[:, inputs]
        weight, bias = (v if outputs is None else v[outputs] for v in (weight, self.bias))
        part.weight, part.bias = (nn.Parameter(v.detach().clone()) for v in (weight, bias))
        part.groups = len(weight) if self.groups > 1 else 1
        return part

    def parts(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as the decoder has them, with the gradients of the trained ones; those if not `exact`."""
        if not self.exact:
            return self.weight, self.bias
        weight, bias = self.rounded()
        return self.weight + (weight - self.weight).detach(), self.bias + (bias - self.bias).detach()

    def rounded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as the decoder has them, without a gradient."""
        k, b, s = self.integers()
        scale = 2.0**-s
        return k * scale.reshape(-1, *[1] * (k.ndim - 1)), b * scale * 2.0**-self.in_bits

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.parts()
        if weight.ndim == 2:
            return self.product(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, bias, padding=1, groups=len(weight))

    def product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """F.linear; in training, factors of more than 8 bits may lose what is over: 8 on the stream, 32 of y_hat."""
        return coarse_linear(x, weight, bias) if self.training else F.linear(x, weight, bias)


def set_exact(net: nn.Module, *, exact: bool) -> None:
    """Round the weights of a network's dyadic layers, or leave them as they are."""
    for layer in net.modules():
        if isinstance(layer, DyadicConv):
            layer.exact = exact


def keep_rounded(net: nn.Module) -> None:
    """Give a network's dyadic layers the weights that a decoder has, once for all: they are not rounded again."""
    for layer in net.modules():
        if isinstance(layer, DyadicConv):
            layer.weight.data, layer.bias.data = layer.rounded()
            layer.exact = False


class DyadicBlock(nn.Module):
    """A residual block of the prior: depthwise 3x3 between two 1x1, then two 1x1 through twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = DyadicConv(width, width, *STREAM)
        self.b = DyadicConv(width, width, *ACTIVATION, depthwise=True)
        self.c = DyadicConv(width, width, *ACTIVATION, gain=0.1)
        self.d = DyadicConv(width, 2 * width, *STREAM)
        self.e = DyadicConv(2 * width, width, *ACTIVATION, gain=0.1)

    def forward(self, r: Tensor) -> Tensor:
        r = stream(r + self.c(activation(self.b(activation(self.a(r))))))
        return stream(r + self.e(activation(self.d(r))))
