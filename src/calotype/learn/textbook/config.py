"""What a textbook model is made of and how it is trained, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from calotype.bundle import MAX_TABLES, STATUSES
from calotype.errors import OptionError
from calotype.learn import plan

PCA, DENSE_AE, CONV_AE, DENSE_VAE, CONV_VAE = "pca", "dense-ae", "conv-ae", "dense-vae", "conv-vae"
VAE_GAN = "vae-gan"
ARCHS = (PCA, DENSE_AE, CONV_AE, DENSE_VAE, CONV_VAE, VAE_GAN)

_CHOICES = {
    "arch": ARCHS,
    "loss": ("mse", "bce"),
    "likelihood": ("bernoulli", "gaussian", "logistic"),
    "optimiser": ("adam", "sgd"),
    "schedule": ("plateau", "cosine"),
    "augment": ("none", "shift", "rotate", "both"),
}
_MOST = 1e9
_LIMITS = {
    "latents": (1, MAX_TABLES),
    "width": (1, 4096),
    "sigma": (1e-3, 1e3),
    "batch": (1, 1 << 20),
    "target_loss": (-_MOST, _MOST),
}


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
    adversarial: float = 10.0
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


Section = TypeVar("Section", Architecture, Recipe)

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
    """A section with other values, checked.

    Raises:
        OptionError: If one is unknown or not allowed.
    """
    known = {f.name: getattr(section, f.name) for f in fields(section)}
    for name, value in values.items():
        if name not in known:
            raise OptionError(f"{source}: a {type(section).__name__.lower()} has no {name}; it has {', '.join(known)}")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise OptionError(f"{source}: {name} is {value!r}, none of {', '.join(_CHOICES[name])}")
        wanted, (low, high) = type(known[name]), _LIMITS.get(name, (0, _MOST))
        if wanted is bool and not isinstance(value, bool):
            raise OptionError(f"{source}: {name} is {value!r}, neither true nor false")
        if wanted in (int, float) and (
            isinstance(value, bool) or not isinstance(value, (wanted, int)) or not low <= value <= high
        ):
            raise OptionError(f"{source}: {name} is {value!r}, not a {wanted.__name__} within {low}..{high:g}")
    if "image" not in values:
        return replace(section, **values)
    image = values["image"]
    if not isinstance(image, list) or len(image) != 3 or not all(type(n) is int and n > 0 for n in image):
        raise OptionError(f"{source}: image is {image!r}, not height, width and channels")
    return replace(section, **{**values, "image": tuple(image)})


def _check_card(card: dict[str, Any], source: str) -> None:
    """Refuse before training what would make a bundle or its card that cannot be read."""
    for key in ("name", "version", "licence"):
        if not isinstance(card.get(key, ""), str):
            raise OptionError(f"{source}: the card's {key} is {card[key]!r}, not a text")
    if card.get("status") not in STATUSES:
        raise OptionError(f"{source}: the card's status is {card.get('status')!r}, none of {', '.join(STATUSES)}")
    data = card.get("data", [])
    if not isinstance(data, list) or not all(
        isinstance(part, dict) and all(isinstance(part.get(key), str) for key in ("name", "licence")) for part in data
    ):
        raise OptionError(f"{source}: the card's data is {data!r}, not a list of objects with name and licence")


def read(path: Path, base: Config | None = None) -> Config:
    """A config from a JSON file of `architecture`, `recipe` and `card`; what it leaves out is as in `base`.

    Raises:
        OptionError: If there is none, or it holds what a config does not.
    """
    base = base or Config()
    values = plan.sections(path)
    card = {**base.card, **values.get("card", {})}
    _check_card(card, str(path))
    return Config(
        changed(base.architecture, values.get("architecture", {}), str(path)),
        changed(base.recipe, values.get("recipe", {}), str(path)),
        card,
    )
