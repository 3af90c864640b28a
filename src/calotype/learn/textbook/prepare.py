"""What a recipe may do to images before a network learns from them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHIFT_SHARE, ROTATION = 1 / 14, math.radians(10)
"""The furthest shift, over the shorter side, and the widest rotation, in radians."""
LEAST_DEVIATION = 1 / 255


def augmented(images: Tensor, how: str) -> Tensor:
    """Images (n, h, w, c), uint8, each a little moved; what comes in from outside repeats the edge.

    Args:
        images: What to move.
        how: `shift` by whole pixels, `rotate`, `both`, or `none`.
    """
    if how == "none":
        return images
    count, height, width = images.shape[:3]
    angle, offset = torch.zeros(count), torch.zeros(count, 2)
    if how != "shift":
        angle = (2 * torch.rand(count) - 1) * ROTATION
    if how != "rotate":
        most = max(1, int(min(height, width) * SHIFT_SHARE))
        offset = 2 * torch.randint(-most, most + 1, (count, 2)) / torch.tensor([width, height])
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, -sin * height / width, sin * width / height, cos], 1).reshape(-1, 2, 2)
    x = images.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(torch.cat([turn, offset[:, :, None]], 2), list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return moved.round().to(torch.uint8).permute(0, 2, 3, 1)


def noisy(x: Tensor, most_sigma: float) -> Tensor:
    """Add Gaussian noise to images (b, c, h, w), cut to [0, 1] as pictures are.

    Args:
        x: The images.
        most_sigma: Each image draws its deviation from 0 to this.
    """
    if not most_sigma:
        return x
    sigma = most_sigma * torch.rand(len(x), 1, 1, 1)
    return (x + sigma * torch.randn_like(x)).clamp(0, 1)


class Standardise(nn.Module):
    """x (b, c, h, w) less the mean of its channel, over its standard deviation, both of all pixels learned from."""

    centre: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(1, channels, 1, 1))
        self.register_buffer("scale", torch.ones(1, channels, 1, 1))

    def fit(self, x: Tensor) -> None:
        """Take the mean and the deviation of x."""
        deviation, mean = torch.std_mean(x, (0, 2, 3), keepdim=True)
        self.centre.copy_(mean)
        self.scale.copy_(1 / deviation.clamp_min(LEAST_DEVIATION))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.centre) * self.scale
