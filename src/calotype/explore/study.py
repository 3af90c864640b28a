"""One face for models of small images of any kind, over whole arrays of images.

y are the latents (n, d) as the entropy coder sees them: of a textbook model in bins, of a bits-back model the
posterior's means, layer after layer, in steps of the grid.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calotype.bitsback.model import HALF, RING
from calotype.bitsback.model import Model as BitsBackModel
from calotype.bundle import ModelFile
from calotype.coding import PRECISION_BITS, IntArray
from calotype.errors import InputError
from calotype.explore.batched import BatchedModel
from calotype.runtime import Floats, Networks
from calotype.small import SmallModel, image_of
from calotype.textbook.model import ENCODER, Images
from calotype.textbook.model import Model as TextbookModel
from calotype.textbook.sample import sample

AT_ONCE = 500
PEAK = 255
ACTIVE_SPREAD = 0.01
LOG_VARIANCE_LIMIT = 12.0
"""As in training: `calotype.learn.textbook.nets`, which needs torch to be imported."""


@dataclass(frozen=True)
class Bits:
    """What images cost by the ELBO, with one draw of their latents.

    Attributes:
        pixels: -log2 p(x | z), (n,).
        latents: log2 q(z | x) / p(z), of each latent, (n, d).
    """

    pixels: NDArray[np.float64]
    latents: NDArray[np.float64]

    @property
    def total(self) -> NDArray[np.float64]:
        """Minus the ELBO, (n,)."""
        return self.pixels + self.latents.sum(1)


@dataclass(frozen=True)
class Rates:
    """What latents carry, each (d,).

    Attributes:
        bits: KL divergence from the prior, the mean over images.
        spread: Variance over images of the posterior's mean, in variances of the prior.
    """

    bits: NDArray[np.float64]
    spread: NDArray[np.float64]

    @property
    def active(self) -> NDArray[np.bool_]:
        """Which latents say anything: those whose mean moves (Burda, Grosse and Salakhutdinov 2016)."""
        return self.spread > ACTIVE_SPREAD


class Study(ABC):
    """A model as it is studied."""

    def __init__(self, model: SmallModel) -> None:
        self.file: ModelFile = model.bundle
        self.image = image_of(model)

    def check(self, images: Images, name: str) -> None:
        """Refuse images of another form.

        Raises:
            InputError: Says which the model is for.
        """
        if images.shape[1:] != self.image:
            wanted, given = ("x".join(map(str, form)) for form in (self.image, images.shape[1:]))
            raise InputError(f"{self.file.path}: is for images of {wanted}; those of {name} are {given}")

    @abstractmethod
    def analyse(self, images: Images) -> Floats:
        """Images (n, h, w, c) -> y (n, d), the likeliest."""

    @abstractmethod
    def synthesise(self, y: Floats) -> Images:
        """Latents y (n, d) -> images (n, h, w, c)."""

    def restore(self, images: Images) -> Images:
        """What comes back of images (n, h, w, c) if their latents are not rounded."""
        return self.synthesise(self.analyse(images))

    @abstractmethod
    def sample(self, count: int, seed: int) -> Images:
        """Images (count, h, w, c) of latents drawn as the coder expects them."""

    @abstractmethod
    def bits(self, images: Images, seed: int) -> Bits | None:
        """What images cost by the ELBO; None of a model that has none."""

    @abstractmethod
    def posterior(self, images: Images) -> Floats | None:
        """All that the encoder says of images, (n, 2 d): means, and widths on a logarithmic scale; None if only y."""

    @abstractmethod
    def rates(self, images: Images) -> Rates | None:
        """What each latent costs over its prior; None of a model without one."""


def _batches(images: Images) -> list[Images]:
    return [images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)]


class TextbookStudy(Study):
    """A model of kind `textbook`. Of a VAE, the posterior is what enters the encoder graph's last layer."""

    def __init__(self, model: TextbookModel) -> None:
        super().__init__(model)
        self.model = model
        graph = onnx.load_model_from_string(self.file.members[ENCODER])
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
        last = graph.graph.node[-1]
        known = last.op_type == "Gemm" and all(name in weights for name in last.input[1:])
        self._basis = [weights[name] for name in last.input[1:]] if known else []
        self.is_vae = known and len(self._basis[0]) == 2 * model.bundle.latents
        graph.graph.output.add().name = last.input[0]
        members = {**self.file.members, ENCODER: graph.SerializeToString()}
        self._inner = Networks(replace(model.bundle, members=members))

    def analyse(self, images: Images) -> Floats:
        return self.model.analyse(images)

    def synthesise(self, y: Floats) -> Images:
        return self.model.synthesise(y.astype(np.float32, copy=False))

    def sample(self, count: int, seed: int) -> Images:
        return sample(self.model, count, seed)

    @property
    def likelihood(self) -> str:
        """`gaussian`, `bernoulli`, or what else the recipe says."""
        return str(self.file.card.get("recipe", {}).get("likelihood"))

    def posterior(self, images: Images) -> Floats | None:
        if not self.is_vae:
            return None
        return np.concatenate([np.concatenate(self._gaussians(part), axis=1) for part in _batches(images)])

    def _gaussians(self, images: Images) -> tuple[Floats, Floats]:
        """Mean and log-variance of a VAE's own latents, (n, d) each."""
        x = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(PEAK)
        mean, log_variance = np.split(self._inner.run(ENCODER, x=x)[1], 2, axis=1)
        return mean, log_variance.clip(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)

    def bits(self, images: Images, seed: int) -> Bits | None:
        if not self.is_vae or self.likelihood not in ("gaussian", "bernoulli"):
            return None
        rng = np.random.default_rng(seed)
        parts = [self._bits(part, rng) for part in _batches(images)]
        return Bits(np.concatenate([p.pixels for p in parts]), np.concatenate([p.latents for p in parts]))

    def rates(self, images: Images) -> Rates | None:
        if not self.is_vae:
            return None
        mean, log_variance = (np.concatenate(p) for p in zip(*map(self._gaussians, _batches(images)), strict=True))
        return Rates(_kl_bits(mean, log_variance).mean(0), mean.var(0))

    def _bits(self, images: Images, rng: np.random.Generator) -> Bits:
        mean, log_variance = self._gaussians(images)
        z = mean + np.exp(log_variance / 2) * rng.standard_normal(mean.shape)
        forward, offset = self._basis
        x_hat = self.synthesise((z @ forward[: z.shape[1]] + offset).astype(np.float32)) / PEAK
        return Bits(self._cost_nats(images / PEAK, x_hat) / math.log(2), _kl_bits(mean, log_variance))

    def _cost_nats(self, x: NDArray[np.float64], x_hat: NDArray[np.float64]) -> NDArray[np.float64]:
        """-log p(x | z), of a density or of pixels that are black or white; up to 8 bits' rounding of x_hat."""
        if self.likelihood == "bernoulli":
            p = x_hat.clip(0.5 / PEAK, 1 - 0.5 / PEAK)
            cost = -x * np.log(p) - (1 - x) * np.log1p(-p)
        else:
            sigma = float(self.file.card["recipe"]["sigma"])
            cost = np.square(x - x_hat) / (2 * sigma**2) + math.log(2 * math.pi * sigma**2) / 2
        return cost.reshape(len(x), -1).sum(1)


def _kl_bits(mean: Floats, log_variance: Floats) -> NDArray[np.float64]:
    """Divergence of Gaussians from a standard one, of each latent."""
    return (np.square(mean) + np.exp(log_variance) - log_variance - np.float64(1)) / (2 * math.log(2))


class BitsBackStudy(Study):
    """A model of kind `bits-back`. An image is restored as the mean of its likelihood."""

    def __init__(self, model: BitsBackModel) -> None:
        super().__init__(model)
        self.model, self.bundle, self.batched = model, model.bundle, BatchedModel(model.bundle)

    def _x(self, images: Images) -> Floats:
        return np.concatenate([self.model.to_x(image) for image in images])

    def _layers(self, y: Floats) -> list[IntArray]:
        """The latents of each layer, on the ring."""
        whole = (np.rint(y).astype(np.int32) + HALF) % RING - HALF
        return np.split(whole, np.cumsum(self.batched.sizes)[:-1], axis=1)

    def analyse(self, images: Images) -> Floats:
        return np.concatenate([self._gaussians(part)[0] for part in _batches(images)])

    def posterior(self, images: Images) -> Floats:
        return np.concatenate([np.concatenate(self._gaussians(part), axis=1) for part in _batches(images)])

    def _gaussians(self, images: Images) -> tuple[Floats, Floats]:
        """Means and tables of all layers, each given the means of those before it."""
        x, zs, tables = self._x(images), list[IntArray](), list[IntArray]()
        for _ in self.batched.sizes:
            layer = self.batched.posterior(x, zs)
            zs.append(layer.mode)
            tables.append(layer.index)
        return np.concatenate(zs, axis=1).astype(np.float32), np.concatenate(tables, axis=1).astype(np.float32)

    def synthesise(self, y: Floats) -> Images:
        return np.concatenate([self._means(self._layers(y[k : k + AT_ONCE])) for k in range(0, len(y), AT_ONCE)])

    def _means(self, zs: Sequence[IntArray]) -> Images:
        frequencies = self.bundle.pixels.frequencies
        means = (frequencies @ np.arange(frequencies.shape[1], dtype=np.float64)) / (1 << PRECISION_BITS)
        values = np.floor(means[self.batched.likelihood(zs)] + 0.5).astype(np.int32)
        return np.stack([self.model.to_image(image) for image in values])

    def sample(self, count: int, seed: int) -> Images:
        rng, zs = np.random.default_rng(seed), list[IntArray]()
        for _ in self.batched.sizes:
            zs.append(self.batched.prior(zs, count).draw(rng))
        return self._means(zs)

    def bits(self, images: Images, seed: int) -> Bits:
        rng = np.random.default_rng(seed)
        parts = [self._bits(part, rng) for part in _batches(images)]
        return Bits(np.concatenate([p.pixels for p in parts]), np.concatenate([p.latents for p in parts]))

    def rates(self, images: Images) -> Rates:
        prior = self.bundle.scales.frequencies[self.bundle.form.prior_scale].astype(np.float64)
        variance = (np.square(np.arange(RING) - HALF) * prior).sum() / prior.sum()
        return Rates(self.bits(images, seed=0).latents.mean(0), self.analyse(images).var(0) / variance)

    def _bits(self, images: Images, rng: np.random.Generator) -> Bits:
        x, zs, costs = self._x(images), list[IntArray](), list[NDArray[np.float64]]()
        for _ in self.batched.sizes:
            posterior, prior = self.batched.posterior(x, zs), self.batched.prior(zs, len(images))
            z = posterior.draw(rng)
            costs.append(prior.bits(z) - posterior.bits(z))
            zs.append(z)
        table, values = self.batched.likelihood(zs), x.reshape(len(x), -1).astype(np.int32)
        pixels = PRECISION_BITS - np.log2(self.bundle.pixels.frequencies[table, values].astype(np.float64))
        return Bits(pixels.sum(1), np.concatenate(costs, axis=1))


def study_of(model: SmallModel) -> Study:
    """A model as it is studied."""
    return TextbookStudy(model) if isinstance(model, TextbookModel) else BitsBackStudy(model)
