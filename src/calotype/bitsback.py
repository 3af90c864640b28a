"""Images <-> rANS words without loss, by bits-back coding with a latent variable model (SPEC.md, section 8).

BB-ANS (Townsend, Bird, Barber 2019), with the layers of a hierarchical model as in HiLLoC (Townsend et al. 2020). To encode an image, its
latents are *popped* off the words under the posterior, then the image is pushed under the likelihood and the latents under
the prior. The decoder undoes that step by step and so gives back the bits that chose the latents. What an image costs is
minus the model's evidence lower bound.

Latents are integers on a ring, and every table is one of a stored family, shifted round the ring: so posterior
and prior have the same support, whatever the networks say.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from calotype.coding import Family, Stack
from calotype.errors import DamagedFile, InexactRuntime

RING = 512
"""Values of a latent: -256..255, and 255 is next to -256."""
HALF = RING // 2
CHECKSUM_BYTES = 4

Images = NDArray[np.uint8]
Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Shape = tuple[int, int, int]


class Networks(Protocol):
    """What computes the graphs of a model."""

    def run(self, graph: str, **inputs: Floats) -> list[Floats]:
        """Outputs of one graph; tensors have a batch axis of 1."""
        ...


@dataclass(frozen=True)
class Form:
    """Sizes of a model.

    Attributes:
        image: Height, width and channels of the images.
        patch: Height and width of the patches that become channels of the networks' tensors.
        latents: Channels, rows and columns of each layer, in the order of decoding.
        prior_scale: Table of layer 0, whose mean is 0.
        shapes: Pixel tables with one mean: table = mean * shapes + shape.
    """

    image: Shape
    patch: tuple[int, int]
    latents: tuple[Shape, ...]
    prior_scale: int
    shapes: int

    @property
    def x(self) -> Shape:
        """Channels, rows and columns of an image as the networks see it."""
        (height, width, channels), (p, q) = self.image, self.patch
        return channels * p * q, height // p, width // q


@dataclass(frozen=True, eq=False)
class Model:
    """A latent variable model.

    Attributes:
        scales: Tables of the latents, around the middle of the ring, by scale.
        pixels: Tables of the 256 values, by mean and shape.
    """

    form: Form
    scales: Family
    pixels: Family
    networks: Networks

    def to_x(self, image: Images) -> Floats:
        """An image (h, w, c) as the networks see it, (1, c p q, h / p, w / q): patches become channels."""
        (height, width, channels), (p, q) = self.form.image, self.form.patch
        patches = image.reshape(height // p, p, width // q, q, channels).transpose(4, 1, 3, 0, 2)
        return patches.reshape(1, *self.form.x).astype(np.float32)

    def to_image(self, values: Ints) -> Images:
        """The image of which `to_x` made these values."""
        (height, width, channels), (p, q) = self.form.image, self.form.patch
        patches = values.astype(np.uint8).reshape(channels, p, q, height // p, width // q)
        return patches.transpose(3, 1, 4, 2, 0).reshape(height, width, channels)

    def prior(self, zs: Sequence[Ints]) -> Shifted:
        """Distribution of the next layer's latents, given those of the layers before it."""
        layer = len(zs)
        if layer:
            return self._shifted(*self._run(f"prior_{layer}.onnx", zs))
        count = prod(self.form.latents[0])
        return self._shifted(np.zeros(count, np.int32), np.full(count, self.form.prior_scale))

    def posterior(self, x: Floats, zs: Sequence[Ints]) -> Shifted:
        """Distribution of the next layer's latents, given the image and the layers before it."""
        return self._shifted(*self._run(f"posterior_{len(zs)}.onnx", zs, x=x))

    def likelihood(self, zs: Sequence[Ints]) -> NDArray[np.uint16]:
        """Tables of the pixels, given all latents."""
        mean, shape = self._run("likelihood.onnx", zs)
        return (mean * self.form.shapes + shape).astype(np.uint16)

    def _shifted(self, mean: Ints, index: Ints) -> Shifted:
        return Shifted(mean, index.astype(np.uint8), self.scales)

    def _run(self, graph: str, zs: Sequence[Ints], **inputs: Floats) -> tuple[Ints, Ints]:
        known = {
            f"z_{i}": z.reshape(1, *shape).astype(np.float32)
            for i, (z, shape) in enumerate(zip(zs, self.form.latents, strict=False))
        }
        mean, index = self.networks.run(graph, **inputs, **known)
        return mean.ravel().astype(np.int32), index.ravel().astype(np.int32)


@dataclass(frozen=True, eq=False)
class Shifted:
    """A distribution of latents (n,): table `index` of the family, its middle moved to `mean` on the ring."""

    mean: Ints
    index: NDArray[np.uint8]
    family: Family

    @property
    def mode(self) -> Ints:
        """The likeliest latents."""
        return (self.mean + HALF) % RING - HALF

    def push(self, z: Ints, stack: Stack) -> None:
        """Push latents."""
        stack.push((z - self.mean + HALF) % RING, self.index, self.family)

    def pop(self, stack: Stack) -> Ints:
        """Pop latents."""
        return (stack.pop(self.index, self.family) + self.mean) % RING - HALF


def encode(model: Model, images: Images) -> bytes:
    """Encode images (n, h, w, c) as one chunk: their CRC-32 and the words.

    The last image comes first. There are no words yet to pop its latents from, so they are the posterior's mode, and its bits do
    not come back: that is what a chunk costs over its ELBO, some ten to a hundred bytes.
    """
    stack = Stack()
    layers = range(len(model.form.latents))
    for ordinal in reversed(range(len(images))):
        x = model.to_x(images[ordinal])
        zs: list[Ints] = []
        for _ in layers:
            posterior = model.posterior(x, zs)
            zs.append(posterior.mode if ordinal == len(images) - 1 else posterior.pop(stack))
        stack.push(x.ravel().astype(np.int32), model.likelihood(zs), model.pixels)
        for layer in reversed(layers):
            model.prior(zs[:layer]).push(zs[layer], stack)
    return zlib.crc32(images.tobytes()).to_bytes(CHECKSUM_BYTES, "little") + stack.words()


def decode(model: Model, data: bytes | memoryview, count: int) -> Images:
    """Decode the `count` images (n, h, w, c) of a chunk.

    Raises:
        DamagedFile: If the chunk breaks a rule that holds without the networks.
        InexactRuntime: If other images come out than were encoded.
    """
    if len(data) < CHECKSUM_BYTES:
        raise DamagedFile(f"a chunk of {len(data)} bytes has no checksum")
    stack = Stack(data[CHECKSUM_BYTES:])
    images = np.empty((count, *model.form.image), np.uint8)
    for ordinal in range(count):
        images[ordinal] = _pop_image(model, stack, is_last=ordinal == count - 1)
    try:
        stack.finish()
    except DamagedFile as error:
        raise _inexact() from error
    if zlib.crc32(images.tobytes()) != int.from_bytes(data[:CHECKSUM_BYTES], "little"):
        raise _inexact()
    return images


def _pop_image(model: Model, stack: Stack, *, is_last: bool) -> Images:
    layers = range(len(model.form.latents))
    zs: list[Ints] = []
    for _ in layers:
        zs.append(model.prior(zs).pop(stack))
    image = model.to_image(stack.pop(model.likelihood(zs), model.pixels))
    if not is_last:
        x = model.to_x(image)
        for layer in reversed(layers):
            model.posterior(x, zs[:layer]).push(zs[layer], stack)
    return image


def _inexact() -> InexactRuntime:
    return InexactRuntime(
        "the chunk is whole, but other images came out than were encoded: this machine's runtime is not exact, or the "
        "model is another. Run onnxruntime's CPU provider in float32, and report this"
    )
