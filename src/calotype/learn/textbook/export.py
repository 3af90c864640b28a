"""A trained textbook model -> a bundle.

A latent is coded in a basis in which a quantiser's step costs the same error along every axis, and in units of *bins*.
How far a small change of z moves the picture says G, the mean of J^T J over images, J the decoder's Jacobian. In
z G^(1/2) all directions are equal, and the principal components there leave the entropy coder no linear dependence.

A VAE's posterior says the same by its width, but axis by axis: its precision is 1 + G_ii / sigma^2. To divide each
latent by its posterior's mean width, and no more, took 10 to 22% more bytes at equal PSNR (docs/lab.md).

The widest axis gets a standard deviation of 32 bins. Each axis' table is the histogram of training images, smoothed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from calotype import bundle
from calotype.bundle import FORMAT
from calotype.coding import MAX_RADIUS
from calotype.errors import CalotypeError
from calotype.learn.calibrate import to_frequencies
from calotype.learn.export import ESCAPE_MASS, table_members
from calotype.learn.graph import Graph, numpy_of
from calotype.learn.textbook.config import Config
from calotype.learn.textbook.nets import Autoencoder, Vae, to_unit
from calotype.learn.textbook.prepare import Standardise
from calotype.textbook.chunk import pack_images, unpack_images
from calotype.textbook.model import DECODER, DECODING, ENCODER, KIND, Images, Model, bundle_of, step_of

STD_BINS = 32.0
LEAST_RADIUS = step_of(0)
MEASURED_LEVELS = (0, 32, 64, 96, 128, 160, 192, 224, 255)
METRIC_IMAGES, METRIC_DRAWS = 2000, 8
EVALUATED_AT_ONCE = 500
TAIL_SHARE = 2.0**-10
SMOOTHING = 0.5
"""Width of the histogram's kernel, over the axis' deviation and the fifth root of the number of images."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Basis:
    """Latents z (n, d) <-> y = (z - centre) @ forward, in bins."""

    centre: Floats
    forward: Floats

    @property
    def backward(self) -> Floats:
        """The inverse of `forward`."""
        return np.linalg.inv(self.forward).astype(np.float64)


def _batches(images: Images) -> list[Tensor]:
    return list(torch.from_numpy(images).split(EVALUATED_AT_ONCE))


@torch.no_grad()
def _latents(net: Autoencoder | Vae, images: Images) -> Floats:
    return torch.cat([net.encode(to_unit(part)) for part in _batches(images)]).double().numpy()


def _metric(net: Autoencoder | Vae, images: Images) -> Floats:
    """The mean of J^T J, by products of J with noise: E[(J^T v)(J^T v)^T] = J^T J."""
    total: Tensor | None = None
    for part in _batches(images[:METRIC_IMAGES]):
        with torch.no_grad():
            z = net.encode(to_unit(part))
        z.requires_grad_()
        x_hat = net.decoder(z)
        for _ in range(METRIC_DRAWS):
            (pulled,) = torch.autograd.grad((x_hat * torch.randn_like(x_hat)).sum(), z, retain_graph=True)
            total = pulled.T @ pulled + (0 if total is None else total)
    assert total is not None
    return total.double().numpy() / (METRIC_DRAWS * min(METRIC_IMAGES, len(images)))


def _root(symmetric: Floats) -> Floats:
    """The square root of a positive matrix; directions without any effect keep a little, so that it has an inverse."""
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(np.maximum(values, values.max() * 1e-6))) @ vectors.T


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise CalotypeError("the latents, or their decoder's derivatives, are not finite: train with a lower rate")
    return values


def basis_of(net: Autoencoder | Vae, images: Images) -> Basis:
    """The basis in which latents are coded, from training images (n, h, w, c)."""
    torch.manual_seed(net.recipe.seed)
    z, root = _finite(_latents(net, images)), _root(_finite(_metric(net, images)))
    centre = z.mean(0)
    forward = root @ np.linalg.eigh(np.cov(((z - centre) @ root).T).reshape(len(root), -1))[1][:, ::-1]
    widest = ((z - centre) @ forward).std(0).max()
    if not widest:
        raise CalotypeError("no latent changes what is decoded: train with a lower rate")
    return Basis(centre, forward * STD_BINS / widest)


def table(values: Floats) -> NDArray[np.uint32]:
    """Frequencies of the bins -R..R and the escape, from the values of one latent (n,), in bins."""
    radius = int(np.clip(np.abs(values).max() * 1.25 + 2, LEAST_RADIUS, MAX_RADIUS))
    bins = np.arange(-radius, radius + 1)
    counts = np.bincount(np.rint(values).clip(-radius, radius).astype(int) + radius, minlength=len(bins))
    spread = max(float(values.std()), 0.05)
    kernel = np.exp(-0.5 * (bins / (SMOOTHING * spread * len(values) ** -0.2)) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), "same")
    tail = np.exp(-np.abs(bins) / (2 * spread))
    masses = smooth / smooth.sum() * (1 - TAIL_SHARE) + tail / tail.sum() * TAIL_SHARE
    return to_frequencies(np.append(masses, ESCAPE_MASS))


def _gemm(g: Graph, x: str, layer: nn.Linear, name: str) -> str:
    weight = g.half(numpy_of(layer.weight), f"{name}.weight")
    return g.op("Gemm", x, weight, g.constant(numpy_of(layer.bias), f"{name}.bias"), transB=1)


def _conv(g: Graph, x: str, layer: nn.Conv2d | nn.ConvTranspose2d, name: str) -> str:
    kind = "Conv" if isinstance(layer, nn.Conv2d) else "ConvTranspose"
    assert layer.bias is not None
    weight, bias = g.half(numpy_of(layer.weight), f"{name}.weight"), g.constant(numpy_of(layer.bias), f"{name}.bias")
    pads = [int(p) for p in layer.padding] * 2
    return g.op(kind, x, weight, bias, kernel_shape=[*layer.kernel_size], strides=[*layer.stride], pads=pads)


def _reshape(g: Graph, x: str, shape: Sequence[int]) -> str:
    """To a shape whose first axis stays as it is."""
    return g.op("Reshape", x, g.constant(np.array([0, *shape], np.int64)))


def _sequence(g: Graph, x: str, net: nn.Sequential) -> str:
    """The layers of a network, one after the other; constants are named after them, for `restore`."""
    for name, layer in net.named_children():
        if isinstance(layer, nn.Linear):
            x = _gemm(g, x, layer, name)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            x = _conv(g, x, layer, name)
        elif isinstance(layer, Standardise):
            x = g.op("Add", x, g.constant(-numpy_of(layer.centre), f"{name}.offset"))
            x = g.op("Mul", x, g.constant(numpy_of(layer.scale), f"{name}.scale"))
        elif isinstance(layer, nn.MaxPool2d):
            x = g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        elif isinstance(layer, nn.Flatten | nn.Unflatten):
            x = _reshape(g, x, [-1] if isinstance(layer, nn.Flatten) else [*layer.unflattened_size])
        else:
            x = g.op("Relu" if isinstance(layer, nn.ReLU) else "Sigmoid", x)
    return x


def _affine(g: Graph, x: str, matrix: Floats, offset: Floats) -> str:
    return g.op("Gemm", x, g.constant(matrix.astype(np.float32)), g.constant(offset.astype(np.float32)))


def encoder_graph(net: Autoencoder | Vae, basis: Basis, image: tuple[int, int, int]) -> bytes:
    """Encoder: x -> y; of a VAE, from the posterior's mean."""
    latents = len(basis.centre)
    g = Graph("encoder", net.encoder)
    height, width, channels = image
    z = _sequence(g, g.input("x", ["n", channels, height, width]), net.encoder)
    chosen = np.eye(2 * latents)[:, :latents] @ basis.forward if isinstance(net, Vae) else basis.forward
    y = _affine(g, z, chosen, -basis.centre @ basis.forward)
    return g.serialise((g.rename(y, "y"), ["n", latents]))


def decoder_graph(net: Autoencoder | Vae, basis: Basis, image: tuple[int, int, int]) -> bytes:
    """Decoder: y -> x."""
    g = Graph("decoder", net.decoder)
    z = _affine(g, g.input("y", ["n", len(basis.centre)], TensorProto.FLOAT), basis.backward, basis.centre)
    x = _sequence(g, z, net.decoder)
    height, width, channels = image
    return g.serialise((g.rename(x, "x"), ["n", channels, height, width]))


def measure(model: Model, images: Images, levels: Sequence[int] = MEASURED_LEVELS) -> list[dict[str, float]]:
    """Bytes of an image in one chunk of all of them, and the PSNR over all their pixels, at some levels."""
    curve: list[dict[str, float]] = []
    for level in levels:
        data = pack_images(model, images, level)
        error = np.mean(np.square(unpack_images(model, data, len(images)).astype(np.float64) - images))
        psnr_db = 10 * np.log10(255**2 / max(error, 1e-3))
        curve.append({"level": level, "image_bytes": round(len(data) / len(images), 2), "psnr_db": round(psnr_db, 3)})
    return curve


def _members(net: Autoencoder | Vae, basis: Basis, y: Floats, config: Config) -> dict[str, bytes]:
    image = config.architecture.image
    return {
        ENCODER: encoder_graph(net, basis, image),
        DECODER: decoder_graph(net, basis, image),
        **table_members([table(column) for column in y.T]),
    }


def manifest(config: Config, card: dict[str, Any]) -> bytes:
    """manifest.json: what readers need to know, then the card."""
    needed = {
        "format": FORMAT,
        "kind": KIND,
        "image": config.architecture.image,
        "latents": config.architecture.latents,
        "decoding": sorted(DECODING),
        "architecture": asdict(config.architecture),
        "recipe": asdict(config.recipe),
    }
    return json.dumps({**card, **needed}, indent=1).encode()


def export(net: Autoencoder | Vae, config: Config, train: Images, validation: Images, out: Path) -> None:
    """Write a trained model as a bundle.

    Args:
        net: The model.
        config: What it was made from; its card goes into the manifest.
        train: Training images (n, h, w, c), to whose latents the basis and the tables are fitted.
        validation: Images that were not trained on, for the card's curve.
        out: The bundle to write.
    """
    net.eval()
    basis = basis_of(net, train)
    y = (_latents(net, train) - basis.centre) @ basis.forward
    content = _members(net, basis, y, config)
    content["manifest.json"] = manifest(config, config.card)
    with TemporaryDirectory() as folder:  # a bundle must exist before it can be measured
        draft = Path(folder) / "draft.calomodel"
        bundle.write(draft, content)
        curve = measure(Model(bundle_of(bundle.read_file(draft))), validation)
    content["manifest.json"] = manifest(config, {**config.card, "curve": curve})
    bundle.write(out, content)
