"""How far a picture looks from another, as losses: MS-SSIM and SSIMULACRA2, differentiable.

Both are what `calotype.bench.metrics` measures, on crops instead of whole pictures. A blur is a product with a matrix
at each side, which also says what lies past the edges.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS_PX, SIGMA_PX = 5, 1.5
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
C1, C2 = 0.01**2, 0.03**2
SSIMULACRA2_C2 = 0.0009
SCALES = 6
LEAST_PX = 8 << (SCALES - 1)
"""Sides from which all scales of both exist."""


SHARES = 0.2, 0.4, 0.4
"""Of mse, MS-SSIM and SSIMULACRA2 in the loss of a picture that looks as pictures do at its error."""
MS_SSIM_WORTH, SSIMULACRA2_WORTH = 0.0217, 8.1e-5
"""mse over 1 - MS-SSIM, and over SSIMULACRA2's error: means over photographs, within 20% the same at every level."""


@lru_cache
def _blur(side_px: int, edges: Literal["reflect", "constant", "inside"]) -> Tensor:
    """The Gaussian window of 11 px as a matrix; `inside` keeps only places where it fits wholly."""
    import numpy as np
    from scipy.ndimage import gaussian_filter1d

    mode = "reflect" if edges == "reflect" else "constant"
    matrix = gaussian_filter1d(np.eye(side_px, dtype=np.float32), SIGMA_PX, axis=0, mode=mode, radius=RADIUS_PX)
    return torch.from_numpy(matrix[RADIUS_PX:-RADIUS_PX] if edges == "inside" else matrix)


def _blurred_inside(v: Tensor) -> Tensor:
    rows, columns = (_blur(side, "inside").to(v.device) for side in v.shape[-2:])
    return rows @ v @ columns.T


def _blurred(v: Tensor) -> Tensor:
    """With the edges of the package ssimulacra2: nothing at the sides, reflections above and below."""
    rows, columns = _blur(v.shape[-2], "reflect").to(v.device), _blur(v.shape[-1], "constant").to(v.device)
    return rows @ v @ columns.T


def _similarity(of_sum: Tensor, of_difference: Tensor, c: float) -> Tensor:
    return (of_sum - of_difference + 2 * c) / (of_sum + of_difference + 2 * c)


def _similarities(both: Tensor, between: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM's factors, means (b, c), from sum and difference: of the means; of the variances and covariance."""
    squared_means = [_blurred_inside(v).square() for v in (both, between)]
    variances = [_blurred_inside(v.square()) - m for v, m in zip((both, between), squared_means, strict=True)]
    luminance = _similarity(squared_means[0], squared_means[1], C1)
    contrast = _similarity(variances[0], variances[1], C2)
    return (luminance * contrast).mean((2, 3)), contrast.mean((2, 3))


def ms_ssim(x: Tensor, x_hat: Tensor) -> Tensor:
    """MS-SSIM (Wang, Simoncelli and Bovik 2003), mean over channels, of pictures (b, c, h, w) in [-0.5, 0.5]: (b,)."""
    both, between = x + x_hat + 1, x - x_hat
    value = torch.ones(x.shape[:2], device=x.device)
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        whole, contrast = _similarities(both, between)
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        value = value * (whole if last else contrast).clamp_min(1e-4) ** weight
        both, between = F.avg_pool2d(both, 2), F.avg_pool2d(between, 2)
    return value.mean(1)


def _linear(x: Tensor) -> Tensor:
    srgb = (x + 0.5).clamp(0, 1)
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp_min(0.04) + 0.055) / 1.055) ** 2.4)


def _positive_xyb(linear: Tensor) -> Tensor:
    """Linear RGB -> the opponent colours of JPEG XL, shifted and scaled to positive numbers."""
    from ssimulacra2.ssimulacra2 import kB0, kOpsinAbsorbanceMatrix

    matrix = torch.tensor(kOpsinAbsorbanceMatrix, dtype=linear.dtype, device=linear.device).reshape(3, 3)
    long, middle, short = ((torch.einsum("ij,bjhw->ibhw", matrix, linear) + kB0) ** (1 / 3) - kB0 ** (1 / 3)).unbind()
    luma = (long + middle) / 2
    return torch.stack([7 * (long - middle) + 0.42, luma + 0.01, short - luma + 0.55], 1)


def _norms(v: Tensor) -> Tensor:
    """Mean, and root of the mean of fourth powers, of maps (b, c, h, w): (b, c, 2)."""
    fourth = v.square().square().mean((2, 3)) + 1e-20
    return torch.stack([v.mean((2, 3)), fourth**0.25], 2)


def _terms(a: Tensor, b: Tensor) -> Tensor:
    """What SSIMULACRA2 weighs at one scale: structure lost, artefacts, detail lost (b, c, 2, 3)."""
    mean_a, mean_b = _blurred(a), _blurred(b)
    covariance = _blurred(a * b) - mean_a * mean_b
    variances = _blurred(a.square() + b.square()) - mean_a.square() - mean_b.square()
    structure = (2 * covariance + SSIMULACRA2_C2) / (variances + SSIMULACRA2_C2)
    lost = (1 - (1 - (mean_a - mean_b).square()) * structure).clamp_min(0)
    edges = (1 + (b - mean_b).abs()) / (1 + (a - mean_a).abs()) - 1
    return torch.stack([_norms(lost), _norms(edges.clamp_min(0)), _norms((-edges).clamp_min(0))], 3)


def ssimulacra2_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """The weighted sum of errors that SSIMULACRA2 (Sneyers 2023) makes its score of, 0 for equal pictures, (b,).

    Args:
        x: The original, (b, 3, h, w) in [-0.5, 0.5], sides of `LEAST_PX` or more.
        x_hat: What it became.
    """
    from ssimulacra2.ssimulacra2 import weights

    weight = torch.tensor(weights, dtype=x.dtype, device=x.device).reshape(3, SCALES, 2, 3)
    a, b = _linear(x), _linear(x_hat)
    error = torch.zeros(len(x), device=x.device)
    for scale in range(SCALES):
        error = error + (_terms(_positive_xyb(a), _positive_xyb(b)) * weight[:, scale]).sum((1, 2, 3))
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return error


def visual_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """A mixture of mse, MS-SSIM and SSIMULACRA2, in units of mse (b,), for pictures (b, 3, h, w) in [-0.5, 0.5]."""
    errors = (x_hat - x).square().mean((1, 2, 3)), 1 - ms_ssim(x, x_hat), ssimulacra2_error(x, x_hat)
    worths = 1.0, MS_SSIM_WORTH, SSIMULACRA2_WORTH
    return sum(
        (s * w * e for s, w, e in zip(SHARES, worths, errors, strict=True)), torch.zeros(len(x), device=x.device)
    )
