"""Muon: momentum whose update is orthogonalised, for weights that are matrices (Jordan et al. 2024)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from calotype.learn.products import fast_type

POLYNOMIALS = (
    (8.0933685, -23.6204303, 17.4461518),
    (3.6365856, -2.7219267, 0.5365463),
    (2.6613000, -1.9771545, 0.4526164),
)
"""Factors of x, x^3 and x^5. One after the other they bring 0.01..1 nearest to 1, each the best for what the one before
leaves (Amsel et al., The Polar Express, 2025), as five rounds of the usual one do; smaller ones they raise less."""
MARGIN = 1.02
"""Of the norm, so that no singular value comes to 1: beyond it the polynomials rise steeply, and bfloat16 rounds."""


def orthogonalise(g: Tensor) -> Tensor:
    """Matrices (n, r, c) with singular values over a hundredth of their norm brought near 1, others towards it."""
    x = g.to(fast_type(g.device.type))
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) * MARGIN + 1e-7)
    for a, b, c in POLYNOMIALS:
        s = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; the update's RMS is at most about 0.2, AdamW's usual one (Liu et al. 2025).

    Matrices of one shape are treated as one batch.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: ARG002
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for shape, matrices in by_shape.items():
                update = orthogonalise(torch.stack([self._momentum(p, group["momentum"]) for p in matrices]))
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                for p, u in zip(matrices, update, strict=True):
                    p.sub_(u, alpha=rate)

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        assert p.grad is not None
        state = self.state[p]
        if "buffer" not in state:
            state["buffer"] = torch.zeros_like(p)
        buffer: Tensor = state["buffer"]
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)
