"""Matrix products for training, on processors that multiply numbers of 16 bits several times as fast as of 32.

PyTorch has one switch for products of float32 in a process, so nothing here is for code that runs beside other threads.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


@cache
def fast_type(device: str) -> torch.dtype:
    """The type that a kind of device multiplies fastest: without instructions for bfloat16 it is far slower with it."""
    if device == "cpu":
        has = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has else torch.float32


@contextmanager
def _coarse() -> Generator[None]:
    """Products of float32 whose factors may be rounded, on a CPU to bfloat16; their sums stay float32."""
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
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        with _coarse():
            by_x = gradient @ weight if for_x else None
            by_weight = rows.mT @ x.flatten(0, -2) if for_weight else None
        return by_x, by_weight, rows.sum(0) if for_bias else None, None


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.linear with coarse gradients."""
    return _Linear.apply(x, weight, bias, False)  # pyright: ignore[reportReturnType]


def coarse_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.linear with factors of 8 bits: exact for the weights and activations of dyadic layers."""
    return _Linear.apply(x, weight, bias, True)  # pyright: ignore[reportReturnType]
