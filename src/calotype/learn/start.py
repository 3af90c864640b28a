"""Start as a transform codec: principal components as the first weights.

The same network started at random needs twice the bits after 1,500 steps (docs/training.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.learn.model import Codec

START_CROPS = 256
"""So many crops the components are taken of."""


def principal_components(samples: Tensor, count: int) -> Tensor:
    """The `count` leading directions (count, d) of the uncentred samples (n, d); zeros after the d-th."""
    samples = samples.double()
    _, directions = torch.linalg.eigh(samples.T @ samples)
    leading = directions.flip(1)[:, :count].T.float()
    return F.pad(leading, (0, 0, 0, count - len(leading)))


def _pixels_as_samples(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(0, 2)


@torch.no_grad()
def start_as_transform(codec: Codec, crops: Tensor) -> None:
    """Set the linear path of g_a and g_s to the components of the crops (n, c, h, w) in [-0.5, 0.5]."""
    arch = codec.arch
    patches = F.pixel_unshuffle(crops, 8)
    stem = principal_components(_pixels_as_samples(patches), arch.width)
    features = F.conv2d(patches, stem[:, :, None, None])
    down = principal_components(_pixels_as_samples(F.pixel_unshuffle(features, 2)), arch.y_channels)
    codec.g_a.stem.weight.copy_(stem)
    codec.g_a.down.weight.copy_(down)
    count = min(arch.y_channels, 4 * arch.width)  # with 0 on both sides, the channels after these would not learn
    codec.g_s.up.weight[:, :count] = down[:count].T
    codec.g_s.head.weight.copy_(stem.T)
