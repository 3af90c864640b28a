"""Matrix products for training, where a processor can multiply numbers of 16 bits several times as fast as of 32."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@contextmanager
def _coarse() -> Generator[None]:
    """Products of float32 whose factors may be rounded to bfloat16; their sums stay float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, coarse: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, weight)
        if not coarse:
            return F.linear(x, weight, bias)
        with _coarse():
            return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        with _coarse():
            by_x = gradient @ weight if ctx.needs_input_grad[0] else None
            return by_x, rows.mT @ x.flatten(0, -2), rows.sum(0), None


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.linear with coarse gradients."""
    return _Linear.apply(x, weight, bias, False)  # pyright: ignore[reportReturnType]


def coarse_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.linear with factors of 8 bits: exact for the weights and activations of dyadic layers."""
    return _Linear.apply(x, weight, bias, True)  # pyright: ignore[reportReturnType]
