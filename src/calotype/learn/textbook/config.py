"""What a textbook model is made of and how it is trained, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calotype.bundle import MAX_TABLES
from calotype.errors import OptionError
from calotype.learn import plan
from calotype.learn.plan import Section

PCA, DENSE_AE, CONV_AE, DENSE_VAE, CONV_VAE = "pca", "dense-ae", "conv-ae", "dense-vae", "conv-vae"
VAE_GAN = "vae-gan"
ARCHS = (PCA, DENSE_AE, CONV_AE, DENSE_VAE, CONV_VAE, VAE_GAN)

_RULES = plan.Rules(
    choices={
        "arch": ARCHS,
        "loss": ("mse", "bce"),
        "likelihood": ("bernoulli", "gaussian", "logistic"),
        "optimiser": ("adam", "sgd"),
        "schedule": ("plateau", "cosine"),
        "augment": ("none", "shift", "rotate", "both"),
    },
    limits={
        "latents": (1, MAX_TABLES),
        "width": (1, 4096),
        "sigma": (1e-3, 1e3),
        "batch": (1, 1 << 20),
        "target_loss": (-plan.MOST, plan.MOST),
    },
)


@dataclass(frozen=True)
class Architecture:
    """Sizes of the networks of one model.

    Attributes:
        arch: One of `ARCHS`.
        latents: Numbers that an image becomes, 1 to 256.
        width: Hidden units of a dense network; four times the channels at full size of a convolutional one.
        image: Height, width and channels of the images; the data says.
    """

    arch: str = DENSE_AE
    latents: int = 64
    width: int = 128
    image: tuple[int, int, int] = (28, 28, 1)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. A 0 switches off what it counts.

    Attributes:
        loss: Of an autoencoder: `mse`, or `bce`, the cross-entropy of pixels taken as probabilities.
        likelihood: Of a VAE: `bernoulli`, `gaussian` of a fixed sigma, or discretised `logistic` of a learned scale.
            Only the last is a probability of pixels with 256 values; `gaussian` is a density, and `bernoulli` one of
            pixels that are black or white.
        sigma: Standard deviation of the Gaussian likelihood, for pixels in [0, 1].
        beta: Weight of the KL divergence (Higgins et al. 2017).
        warmup: Epochs over which beta rises to its value.
        free_bits: Nats of KL that each latent may have for nothing (Kingma et al. 2016).
        adversarial: Of a VAE-GAN: weight of what its decoder learns from the critic, in nats.
        noise_sigma: Largest standard deviation of noise on what the encoder sees, for pixels in [0, 1]; each image
            draws its own. What is to come back has no noise (Vincent et al. 2008), and a VAE's loss is no ELBO then.
        optimiser: `adam`, or `sgd` with momentum.
        rate: Learning rate at first.
        momentum: Of `sgd`.
        batch: Images a step.
        epochs: Most passes over the training images.
        minutes: Most minutes.
        schedule: `plateau` halves the rate when the validation loss no longer falls, `cosine` leads it to zero.
        patience: Epochs without a better loss until `plateau` halves; after four times as many, training ends.
        target_loss: Training ends when the validation loss is this small.
        augment: Training images are moved a little, anew each time: `shift`, `rotate`, `both`, or `none`.
        normalise: The encoder's first layer standardises its input, by the training images' mean and deviation.
        seed: Of weights, order and noise.
    """

    loss: str = "mse"
    likelihood: str = "gaussian"
    sigma: float = 0.05
    beta: float = 1.0
    warmup: int = 2
    free_bits: float = 0.0
    adversarial: float = 100.0
    noise_sigma: float = 0.0
    optimiser: str = "adam"
    rate: float = 2e-3
    momentum: float = 0.9
    batch: int = 256
    epochs: int = 100
    minutes: float = 0.0
    schedule: str = "cosine"
    patience: int = 3
    target_loss: float = 0.0
    augment: str = "none"
    normalise: bool = False
    seed: int = 1


@dataclass(frozen=True)
class Config:
    """All that a run is made from, and that its bundle says of it.

    Attributes:
        card: What the bundle's manifest says besides: name, version, status, licence, data.
    """

    architecture: Architecture = field(default_factory=Architecture)
    recipe: Recipe = field(default_factory=Recipe)
    card: dict[str, Any] = field(default_factory=lambda: {"name": "mine", "version": "1", "status": "preview"})


_WIDTH = {PCA: 1, DENSE_AE: 128, CONV_AE: 64, DENSE_VAE: 512, CONV_VAE: 64, VAE_GAN: 64}


def usual(arch: str) -> Config:
    """What a model is made from if nobody says otherwise.

    Raises:
        OptionError: If there is no such architecture.
    """
    if arch not in ARCHS:
        raise OptionError(f"--arch {arch!r} is none of photo, {', '.join(ARCHS)}")
    return Config(Architecture(arch, width=_WIDTH[arch]))


def changed(section: Section, values: dict[str, Any], source: str) -> Section:
    """A section, `Architecture` or `Recipe`, with other values, checked.

    Raises:
        OptionError: If one is unknown or not allowed.
    """
    settled = plan.changed(section, values, source, _RULES)
    if isinstance(settled, Architecture) and len(settled.image) != 3:
        raise OptionError(f"{source}: image is {values['image']!r}, not height, width and channels")
    return settled


def read(path: Path, base: Config | None = None) -> Config:
    """A config from a JSON file of `architecture`, `recipe` and `card`; what it leaves out is as in `base`.

    Raises:
        OptionError: If there is none, or it holds what a config does not.
    """
    return merged(plan.sections(path), base or Config(), str(path))


def merged(values: dict[str, dict[str, Any]], base: Config, source: str) -> Config:
    """A config with other values in its sections.

    Raises:
        OptionError: If one is unknown or not allowed; `source` says where they come from.
    """
    card = {**base.card, **values.get("card", {})}
    plan.check_card(card, source)
    return Config(
        changed(base.architecture, values.get("architecture", {}), source),
        changed(base.recipe, values.get("recipe", {}), source),
        card,
    )
