"""What is done to crops so that a model learns more from them than the pictures themselves show."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

GRAIN_STEPS = 0.5, 3.5
"""Range of the standard deviation of grain, in steps of samples of 8 bits."""
MOST_SHRUNK = 2.0
"""By how much at most a crop is made smaller: a codec's traces are gone from the result, and its details are finer."""


def with_grain(part: Tensor, peak: int, random: np.random.Generator) -> Tensor:
    """Samples (h, w, c) with noise as film and sensors make it: much of it grey, half of the time blurred over 2x2."""
    height, width, channels = part.shape
    grey = random.standard_normal((height, width, 1), np.float32)
    grain = 0.8 * grey + 0.6 * random.standard_normal((height, width, channels), np.float32)
    if random.random() < 0.5:
        grain = (grain + np.roll(grain, 1, 0)) / 2**0.5
        grain = (grain + np.roll(grain, 1, 1)) / 2**0.5
    noise = torch.from_numpy(grain * (random.uniform(*GRAIN_STEPS) * peak / 255)).to(part.device)
    return (part.float() + noise).round().clamp(0, peak).to(part.dtype)


def shrunk_to(part: Tensor, size_px: int, peak: int) -> Tensor:
    """Square samples (h, w, c) made smaller by a cubic filter."""
    x = part.permute(2, 0, 1)[None].float()
    smaller = interpolate(x, (size_px, size_px), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    return smaller.round().clamp(0, peak).to(part.dtype)
