"""The network that tells real images from made ones (Goodfellow et al. 2014)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from calotype.learn.textbook.config import Architecture

SLOPE = 0.2


class Judgement(NamedTuple):
    """What a critic says of images: features (b, c, h, w), and a score (b, 1), higher for real ones."""

    features: Tensor
    score: Tensor


class Critic(nn.Module):
    """Two convolutions with stride, whose output are the features, and a dense layer.

    Each is divided by its largest singular value, so that scores are steep nowhere (Miyato et al. 2018).
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        height, width, channels = arch.image
        few, many = max(8, arch.width // 2), max(16, arch.width)
        self.features = nn.Sequential(
            spectral_norm(nn.Conv2d(channels, few, 4, stride=2, padding=1)), nn.LeakyReLU(SLOPE),
            spectral_norm(nn.Conv2d(few, many, 4, stride=2, padding=1)), nn.LeakyReLU(SLOPE),
        )  # fmt: skip
        self.score = nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(many * (height // 4) * (width // 4), 1)))

    def forward(self, x: Tensor) -> Judgement:
        features = self.features(x)
        return Judgement(features, self.score(features))

    def frozen(self, x: Tensor) -> Judgement:
        """The same of x (b, c, h, w), with a gradient for x and none for the weights."""
        weights = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return functional_call(self, weights, (x,))
