"""The families: a linear transform, autoencoders and variational autoencoders, dense or convolutional.

x is an image (b, c, h, w) in [0, 1], z its latent (b, d).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.errors import OptionError
from calotype.learn.start import principal_components
from calotype.learn.textbook.config import (
    CONV_AE,
    CONV_VAE,
    DENSE_AE,
    DENSE_VAE,
    PCA,
    VAE_GAN,
    Architecture,
    Recipe,
)
from calotype.learn.textbook.critic import Critic
from calotype.learn.textbook.prepare import Standardise, noisy

VALUES = 256
CONV_STRIDE = 4
LOG_VARIANCE_LIMIT = 12.0


def to_unit(images: Tensor) -> Tensor:
    """Images (b, h, w, c), uint8 -> x."""
    return images.permute(0, 3, 1, 2).float() / (VALUES - 1)


class Trainable(nn.Module, ABC):
    """What the loop trains: anything with a loss over images.

    Attributes:
        keeps_best: Whether the weights with the least validation loss are kept, or the last ones.
    """

    keeps_best = True

    @abstractmethod
    def loss(self, images: Tensor, warm: float = 1.0) -> Tensor:
        """Mean loss of images (b, h, w, c), uint8; `warm` rises from 0 to 1 over the warm-up."""


class Autoencoder(Trainable):
    """z = encoder(x), x_hat = decoder(z); the loss is the mean squared error or the cross-entropy of a pixel."""

    def __init__(self, arch: Architecture, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.encoder, self.decoder = _networks(arch, arch.latents, normalise=recipe.normalise)

    def encode(self, x: Tensor) -> Tensor:
        """The latent of x."""
        return self.encoder(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encode(x))

    def loss(self, images: Tensor, warm: float = 1.0) -> Tensor:  # noqa: ARG002 (there is nothing to warm up)
        x = to_unit(images)
        x_hat = self(noisy(x, self.recipe.noise_sigma))
        return F.mse_loss(x_hat, x) if self.recipe.loss == "mse" else F.binary_cross_entropy(x_hat, x)


class Pca(Autoencoder):
    """The linear autoencoder with the least squared error: principal components (Baldi and Hornik 1989)."""

    def loss(self, images: Tensor, warm: float = 1.0) -> Tensor:  # noqa: ARG002
        x = to_unit(images)
        return F.mse_loss(self(x), x)

    @torch.no_grad()
    def solve(self, images: Tensor) -> None:
        """Set the weights from images (n, h, w, c), uint8."""
        x = to_unit(images).flatten(1)
        mean, down, up = x.mean(0), self.encoder[1], self.decoder[0]
        assert isinstance(down, nn.Linear)
        assert isinstance(up, nn.Linear)
        basis = principal_components(x - mean, down.out_features)
        for parameter, value in (
            (down.weight, basis),
            (down.bias, -basis @ mean),
            (up.weight, basis.T),
            (up.bias, mean),
        ):
            parameter.copy_(value)


class Vae(Trainable):
    """A variational autoencoder (Kingma and Welling 2014): the loss is a distortion plus a rate, in nats an image.

    That is minus the ELBO if beta is 1 and nothing is free; of a density with the likelihood `gaussian`, and with
    `bernoulli` only for pixels that are black or white.

    The encoder gives a mean and a log-variance for each latent; the prior is a standard Gaussian.
    """

    def __init__(self, arch: Architecture, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.encoder, self.decoder = _networks(arch, 2 * arch.latents, normalise=recipe.normalise)
        self.log_scale = nn.Parameter(torch.tensor(-3.0))  # of the logistic likelihood

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x)."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)

    def encode(self, x: Tensor) -> Tensor:
        """The likeliest latent of x."""
        return self.posterior(x)[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encode(x))

    def loss(self, images: Tensor, warm: float = 1.0) -> Tensor:
        x = to_unit(images)
        return self.parts(x, warm)[1]

    def parts(self, x: Tensor, warm: float) -> tuple[Tensor, Tensor]:
        """The images decoded from a draw of their posterior, and the loss."""
        mean, log_variance = self.posterior(noisy(x, self.recipe.noise_sigma))
        x_hat = self.decoder(mean + torch.exp(log_variance / 2) * torch.randn_like(mean))  # the reparameterisation
        return x_hat, self._distortion(x_hat, x) + warm * self.recipe.beta * self._rate(mean, log_variance)

    def _rate(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """KL(q(z | x) || p(z)), the mean over images; what a latent has under its free bits is not counted."""
        kl = (mean.square() + log_variance.exp() - log_variance - 1) / 2
        return kl.mean(0).clamp_min(self.recipe.free_bits).sum()

    def _distortion(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """-log p(x | z), the mean over images."""
        if self.recipe.likelihood == "bernoulli":
            cost = F.binary_cross_entropy(x_hat, x, reduction="none")
        elif self.recipe.likelihood == "gaussian":
            variance = self.recipe.sigma**2
            cost = (x - x_hat).square() / (2 * variance) + math.log(2 * math.pi * variance) / 2
        else:
            cost = _logistic_cost(x_hat, x, self.log_scale)
        return cost.flatten(1).sum(1).mean()


class VaeGan(Vae):
    """A VAE whose decoder also learns to deceive a critic (Larsen et al. 2016).

    To the VAE's loss come, while training, how sure the critic is that decoded draws of the prior are made, and how far
    apart images and their reconstructions are in its features; and the critic's own loss. In one step, both learn: what
    the decoder is told passes through a critic that stands still. Unlike in the paper the error of pixels stays.

    The validation loss is the VAE's, which says nothing of the sharpness that the critic is there for.
    """

    keeps_best = False

    def __init__(self, arch: Architecture, recipe: Recipe) -> None:
        super().__init__(arch, recipe)
        self.critic = Critic(arch)
        self.latents = arch.latents

    def loss(self, images: Tensor, warm: float = 1.0) -> Tensor:
        if not self.training:
            return super().loss(images, warm)
        x = to_unit(images)
        x_hat, of_vae = self.parts(x, warm)
        made = self.decoder(torch.randn(len(x), self.latents, device=x.device))
        real, fake = self.critic(x), self.critic(made.detach())
        of_critic = F.softplus(-real.score).mean() + F.softplus(fake.score).mean()
        deceived = F.softplus(-self.critic.frozen(made).score).mean()
        apart = (self.critic.frozen(x_hat).features - real.features.detach()).square().flatten(1).sum(1).mean() / 2
        return of_vae + self.recipe.adversarial * (deceived + apart) + of_critic


def _logistic_cost(mean: Tensor, x: Tensor, log_scale: Tensor) -> Tensor:
    """-log of a logistic's mass on the value's cell (Salimans et al. 2017); the outer cells reach to infinity."""
    half = 0.5 / (VALUES - 1)
    per_scale = torch.exp(-log_scale)
    above, below = ((x - mean + side) * per_scale for side in (half, -half))
    left, right = F.softplus(-above), F.softplus(below)  # -log of the mass under the upper, over the lower edge
    inner = left + right - torch.log(-torch.expm1(-2 * half * per_scale))
    return torch.where(x < half, left, torch.where(x > 1 - half, right, inner))


def _networks(arch: Architecture, outputs: int, *, normalise: bool) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder."""
    if arch.arch == PCA:
        return _linear(arch, outputs)
    encoder, decoder = _dense(arch, outputs) if arch.arch in (DENSE_AE, DENSE_VAE) else _conv(arch, outputs)
    return nn.Sequential(Standardise(arch.image[2]), *encoder) if normalise else encoder, decoder


def _shape(arch: Architecture) -> tuple[int, int, int]:
    height, width, channels = arch.image
    return channels, height, width


def _linear(arch: Architecture, outputs: int) -> tuple[nn.Sequential, nn.Sequential]:
    shape = _shape(arch)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs))
    return encoder, nn.Sequential(nn.Linear(arch.latents, math.prod(shape)), nn.Unflatten(1, shape))


def _dense(arch: Architecture, outputs: int) -> tuple[nn.Sequential, nn.Sequential]:
    shape, hidden = _shape(arch), arch.width
    pixels = math.prod(shape)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
    decoder = nn.Sequential(
        nn.Linear(arch.latents, hidden), nn.ReLU(), nn.Linear(hidden, pixels), nn.Sigmoid(), nn.Unflatten(1, shape)
    )
    return encoder, decoder


def _conv(arch: Architecture, outputs: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Two convolutions with pooling, a dense layer at a quarter of the size, and the way back."""
    channels, height, width = _shape(arch)
    if height % CONV_STRIDE or width % CONV_STRIDE:
        raise OptionError(f"{arch.arch} takes sides that are multiples of {CONV_STRIDE}, not {height}x{width}")
    full, half = max(1, arch.width // 4), max(2, arch.width // 2)
    small = (half, height // CONV_STRIDE, width // CONV_STRIDE)
    encoder = nn.Sequential(
        nn.Conv2d(channels, full, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(full, half, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(math.prod(small), outputs),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(arch.latents, math.prod(small)), nn.ReLU(), nn.Unflatten(1, small),
        nn.ConvTranspose2d(half, full, 4, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(full, channels, 4, stride=2, padding=1), nn.Sigmoid(),
    )  # fmt: skip
    return encoder, decoder


FAMILIES: dict[str, type[Autoencoder] | type[Vae]] = {
    PCA: Pca,
    DENSE_AE: Autoencoder,
    CONV_AE: Autoencoder,
    DENSE_VAE: Vae,
    CONV_VAE: Vae,
    VAE_GAN: VaeGan,
}


def model_of(arch: Architecture, recipe: Recipe) -> Autoencoder | Vae:
    """A model with weights at random, by the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return FAMILIES[arch.arch](arch, recipe)
