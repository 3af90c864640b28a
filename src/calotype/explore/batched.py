"""The distributions of a bits-back model for many images at once: for study, not for coding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray

from calotype.bitsback.model import HALF, RING, LatentBundle
from calotype.coding import PRECISION_BITS, Family, IntArray
from calotype.runtime import Floats, Networks


@dataclass(frozen=True)
class Layer:
    """A layer's latents of many images: means and tables, (n, latents)."""

    mean: IntArray
    index: IntArray
    family: Family

    @property
    def mode(self) -> IntArray:
        """The likeliest latents."""
        return (self.mean + HALF) % RING - HALF

    def draw(self, rng: np.random.Generator) -> IntArray:
        """Latents by chance, as likely as the tables say."""
        shares = self.family.frequencies.cumsum(1, dtype=np.int64)
        drawn = rng.integers(0, 1 << PRECISION_BITS, self.index.shape)
        places = np.empty(self.index.shape, np.int64)
        for table in np.unique(self.index):
            chosen = self.index == table
            places[chosen] = np.searchsorted(shares[table], drawn[chosen], "right")
        return ((places + self.mean) % RING - HALF).astype(np.int32)

    def bits(self, z: IntArray) -> NDArray[np.float64]:
        """What each of the latents costs."""
        places = (z - self.mean + HALF) % RING
        return PRECISION_BITS - np.log2(self.family.frequencies[self.index, places].astype(np.float64))


class BatchedModel:
    """As `calotype.bitsback.model.Model`, for many images: nothing in its graphs mixes them."""

    def __init__(self, bundle: LatentBundle) -> None:
        self.bundle, self.form = bundle, bundle.form
        graphs = {name: _with_free_batch(bundle.members[name]) for name in self.form.graphs}
        self._networks = Networks(replace(bundle, members=graphs))

    @property
    def sizes(self) -> list[int]:
        """Latents of each layer."""
        return [prod(shape) for shape in self.form.latents]

    def prior(self, zs: Sequence[IntArray], count: int) -> Layer:
        """The next layer's latents of `count` images, given those of the layers before it."""
        if zs:
            return Layer(*self._run(f"prior_{len(zs)}.onnx", zs), self.bundle.scales)
        flat = np.zeros((count, self.sizes[0]), np.int32)
        return Layer(flat, flat + self.form.prior_scale, self.bundle.scales)

    def posterior(self, x: Floats, zs: Sequence[IntArray]) -> Layer:
        """The next layer's latents, given the images and the layers before it."""
        return Layer(*self._run(f"posterior_{len(zs)}.onnx", zs, x=x), self.bundle.scales)

    def likelihood(self, zs: Sequence[IntArray]) -> IntArray:
        """Tables of the pixels, given all latents."""
        mean, shape = self._run("likelihood.onnx", zs)
        return mean * self.form.shapes + shape

    def _run(self, graph: str, zs: Sequence[IntArray], **inputs: Floats) -> tuple[IntArray, IntArray]:
        for layer, (z, shape) in enumerate(zip(zs, self.form.latents, strict=False)):
            inputs[f"z_{layer}"] = z.reshape(-1, *shape).astype(np.float32)
        mean, index = (found.reshape(len(found), -1).astype(np.int32) for found in self._networks.run(graph, **inputs))
        return mean, index


def _with_free_batch(raw: bytes) -> bytes:
    """A graph whose batch axis is free."""
    graph = onnx.load_model_from_string(raw)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    return graph.SerializeToString()
