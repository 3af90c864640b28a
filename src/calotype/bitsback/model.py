"""Model files of kind `bits-back`: dyadic networks and tables that give an image's probability (SPEC.md, section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from calotype.bundle import ModelFile
from calotype.coding import PRECISION_BITS, Family, IntArray, Stack
from calotype.errors import InvalidModel
from calotype.runtime import Floats, Networks

KIND = "bits-back"
RING = 512
"""Values of a latent: -256..255, and 255 is next to -256."""
HALF = RING // 2
VALUES = 256
MAX_LAYERS = 8
MAX_SIDE = 256
MAX_ELEMENTS = 1 << 16
MAX_SCALES, MAX_PIXEL_TABLES = 256, 4096

Images = NDArray[np.uint8]
Shape = tuple[int, int, int]


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

    @property
    def graphs(self) -> list[str]:
        """Names of all graphs."""
        layers = range(len(self.latents))
        return ["likelihood.onnx", *(f"posterior_{i}.onnx" for i in layers), *(f"prior_{i}.onnx" for i in layers[1:])]


@dataclass(frozen=True, eq=False)
class LatentBundle(ModelFile):
    """A model file of kind `bits-back`.

    Attributes:
        scales: Tables of the latents, around the middle of the ring, by scale.
        pixels: Tables of the 256 values, by mean and shape.
    """

    form: Form
    scales: Family
    pixels: Family

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what its graphs are given for one image."""
        return {"x": (1, *self.form.x), **{f"z_{i}": (1, *shape) for i, shape in enumerate(self.form.latents)}}


def _positive(values: Any, count: int, limit: int) -> tuple[int, ...]:
    if len(values) != count or any(type(v) is not int or not 1 <= v <= limit for v in values):
        raise ValueError(f"{values} are not {count} whole numbers within 1..{limit}")
    return tuple(values)


def _form(card: dict[str, Any]) -> Form:
    latents = [cast("Shape", _positive(shape, 3, MAX_ELEMENTS)) for shape in card["latents"]]
    form = Form(
        image=cast("Shape", _positive(card["image"], 3, MAX_SIDE)),
        patch=cast("tuple[int, int]", _positive(card["patch"], 2, MAX_SIDE)),
        latents=tuple(latents),
        prior_scale=card["prior_scale"],
        shapes=_positive([card["shapes"]], 1, MAX_PIXEL_TABLES)[0],
    )
    if any(side % step for side, step in zip(form.image, form.patch, strict=False)):
        raise ValueError(f"patches of {form.patch} do not fill images of {form.image}")
    if not 1 <= len(latents) <= MAX_LAYERS or max(map(prod, (form.image, *latents))) > MAX_ELEMENTS:
        raise ValueError(f"no layers, over {MAX_LAYERS}, or over {MAX_ELEMENTS} values in one")
    return form


def _family(file: ModelFile, name: str, symbols: int, most: int) -> Family:
    raw = file.members[name]
    if len(raw) % (4 * symbols) or not 1 <= len(raw) // (4 * symbols) <= most:
        raise ValueError(f"{name} does not hold 1 to {most} tables of {symbols} frequencies")
    frequencies = np.frombuffer(raw, "<u4").reshape(-1, symbols)
    if frequencies.min() < 1 or (frequencies.sum(1, dtype=np.uint64) != 1 << PRECISION_BITS).any():
        raise ValueError(f"a table in {name} does not sum to 2^{PRECISION_BITS} or holds a 0")
    return Family(frequencies)


def bundle_of(file: ModelFile) -> LatentBundle:
    """A model file as one of kind `bits-back`.

    Raises:
        InvalidModel: If it is another kind of model, or breaks a rule for this one.
    """
    if file.kind != KIND:
        raise InvalidModel(f"{file.path}: a model of kind {file.kind!r}, not one for lossless small images ({KIND!r})")
    try:
        form = _form(file.card)
        needed = {"scales.u32", "pixels.u32", *form.graphs}
        if set(file.card["decoding"]) != needed:
            raise ValueError(f"decoding must list just {sorted(needed)}")
        scales = _family(file, "scales.u32", RING, MAX_SCALES)
        pixels = _family(file, "pixels.u32", VALUES, MAX_PIXEL_TABLES)
        if type(form.prior_scale) is not int or not 0 <= form.prior_scale < len(scales.frequencies):
            raise ValueError(f"prior_scale {form.prior_scale} is none of {len(scales.frequencies)} tables")
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidModel(f"{file.path}: not a model of kind {KIND!r}: {error}") from error
    return LatentBundle(file.path, file.members, file.card, form, scales, pixels)


@dataclass(frozen=True, eq=False)
class Shifted:
    """A distribution of latents (n,): table `index` of the family, its middle moved to `mean` on the ring.

    On a ring every shifted table covers all values: prior and posterior have one support, whatever the networks say.
    """

    mean: IntArray
    index: NDArray[np.uint8]
    family: Family

    @property
    def mode(self) -> IntArray:
        """The likeliest latents."""
        return (self.mean + HALF) % RING - HALF

    def push(self, z: IntArray, stack: Stack) -> None:
        """Push latents."""
        stack.push((z - self.mean + HALF) % RING, self.index, self.family)

    def pop(self, stack: Stack) -> IntArray:
        """Pop latents."""
        return (stack.pop(self.index, self.family) + self.mean) % RING - HALF


class Model:
    """The distributions of a latent variable model with layers z_0, z_1, ... of latents.

    Args:
        bundle: The model.
        networks: What runs its graphs.
    """

    def __init__(self, bundle: LatentBundle, networks: Networks | None = None) -> None:
        self.bundle, self.form = bundle, bundle.form
        self._networks = networks or Networks(bundle, threads=1)

    def to_x(self, image: Images) -> Floats:
        """An image (h, w, c) as the networks see it, (1, c p q, h / p, w / q): patches become channels."""
        (height, width, channels), (p, q) = self.form.image, self.form.patch
        patches = image.reshape(height // p, p, width // q, q, channels).transpose(4, 1, 3, 0, 2)
        return patches.reshape(1, *self.form.x).astype(np.float32)

    def to_image(self, values: IntArray) -> Images:
        """The image of which `to_x` made these values."""
        (height, width, channels), (p, q) = self.form.image, self.form.patch
        patches = values.astype(np.uint8).reshape(channels, p, q, height // p, width // q)
        return patches.transpose(3, 1, 4, 2, 0).reshape(height, width, channels)

    def prior(self, zs: Sequence[IntArray]) -> Shifted:
        """The next layer's latents, given those of the layers before it."""
        if zs:
            return self._latents(f"prior_{len(zs)}.onnx", zs)
        count = prod(self.form.latents[0])
        index = np.full(count, self.form.prior_scale, np.uint8)
        return Shifted(np.zeros(count, np.int32), index, self.bundle.scales)

    def posterior(self, x: Floats, zs: Sequence[IntArray]) -> Shifted:
        """The next layer's latents, given the image and the layers before it."""
        return self._latents(f"posterior_{len(zs)}.onnx", zs, x=x)

    def likelihood(self, zs: Sequence[IntArray]) -> NDArray[np.uint16]:
        """Tables of the pixels, given all latents."""
        mean, shape = self._run("likelihood.onnx", zs, prod(self.form.image))
        index = mean * self.form.shapes + shape
        if shape.max() >= self.form.shapes or index.min() < 0 or index.max() >= len(self.bundle.pixels.frequencies):
            raise InvalidModel(f"{self.bundle.path}: likelihood.onnx names tables that the model does not have")
        return index.astype(np.uint16)

    def _latents(self, graph: str, zs: Sequence[IntArray], **inputs: Floats) -> Shifted:
        mean, index = self._run(graph, zs, prod(self.form.latents[len(zs)]), **inputs)
        if index.max() >= len(self.bundle.scales.frequencies):
            raise InvalidModel(f"{self.bundle.path}: {graph} names tables that the model does not have")
        return Shifted(mean, index.astype(np.uint8), self.bundle.scales)

    def _run(self, graph: str, zs: Sequence[IntArray], count: int, **inputs: Floats) -> tuple[IntArray, IntArray]:
        for layer, (z, shape) in enumerate(zip(zs, self.form.latents, strict=False)):
            inputs[f"z_{layer}"] = z.reshape(1, *shape).astype(np.float32)
        results = [result.ravel().astype(np.int32) for result in self._networks.run(graph, **inputs)]
        if [len(result) for result in results] != [count, count] or min(result.min() for result in results[1:]) < 0:
            raise InvalidModel(f"{self.bundle.path}: {graph} does not give {count} means and table indices")
        mean, index = results
        return mean, index
