"""A trained bits-back model -> a bundle."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calotype import bundle
from calotype.bitsback.model import HALF, KIND
from calotype.learn.bitsback.nets import INDEX_BITS, MEAN_LIMIT, Architecture, DyadicMlp, LatentModel
from calotype.learn.bitsback.tables import GRID_BITS, MEANS, PRIOR_SCALE, SCALES, SHAPES, latent_tables
from calotype.learn.dyadic import ACTIVATION_BITS, ACTIVATION_LIMIT
from calotype.learn.graph import Graph
from calotype.proof import prove

LATENT = GRID_BITS, -MEAN_LIMIT, MEAN_LIMIT, SCALES - 1
PIXEL = INDEX_BITS, 0, MEANS - 1, SHAPES - 1


def _graph(net: DyadicMlp, name: str, inputs: dict[str, int], form: tuple[int, int, int, int]) -> bytes:
    """A network as a graph of integers; `form` is the grid of the mean, its limits, and the last table."""
    mean_bits, low, high, last = form
    g = Graph(name, net)
    limited = [g.clip(g.input(n, [1, size, 1, 1]), -HALF, HALF - 1) for n, size in inputs.items()]
    h = g.op("Concat", *limited, axis=1) if len(limited) > 1 else limited[0]
    for layer in net.hidden:
        h = g.floor_clip(g.dyadic(h, layer, ACTIVATION_BITS), 0, ACTIVATION_LIMIT)  # type: ignore[arg-type]
    mean = g.floor_clip(g.dyadic(h, net.head, mean_bits, 0), low, high)
    index = g.floor_clip(g.dyadic(h, net.head, INDEX_BITS, 1), 0, last)
    shape = [1, len(net.head.bias) // 2, 1, 1]
    return g.serialise((g.rename(mean, "mean"), shape), (g.rename(index, "index"), shape))


def graphs(model: LatentModel) -> dict[str, bytes]:
    """All graphs of a model, by name, each proved exact.

    Raises:
        InvalidModel: If one cannot be proved.
    """
    arch = model.arch
    z = [{f"z_{i}": arch.latents[i] for i in range(layer)} for layer in range(len(arch.latents) + 1)]
    wanted = [("likelihood", model.likelihood, z[-1], PIXEL)]
    for layer, net in enumerate(model.posteriors):
        wanted.append((f"posterior_{layer}", net, {"x": arch.pixels} | z[layer], LATENT))  # type: ignore[arg-type]
    for layer, net in enumerate(model.priors, 1):
        wanted.append((f"prior_{layer}", net, z[layer], LATENT))  # type: ignore[arg-type]
    made = {f"{name}.onnx": _graph(net, name, inputs, form) for name, net, inputs, form in wanted}
    for name, raw in made.items():
        prove(name, raw)
    return made


def members(model: LatentModel, card: dict[str, Any]) -> dict[str, bytes]:
    """The members of a bundle.

    Args:
        model: The trained model.
        card: What the manifest says besides: name, version, status, data, recipe.
    """
    arch: Architecture = model.arch
    decoding = {
        "scales.u32": latent_tables().astype("<u4").tobytes(),
        "pixels.u32": model.cost.frequencies.astype("<u4").tobytes(),
        **graphs(model),
    }
    manifest = {
        **card,
        "format": bundle.FORMAT,
        "kind": KIND,
        "image": arch.image,
        "patch": arch.image[:2],
        "latents": [(size, 1, 1) for size in arch.latents],
        "prior_scale": PRIOR_SCALE,
        "shapes": SHAPES,
        "decoding": sorted(decoding),
        "architecture": asdict(arch),
    }
    return {**decoding, "manifest.json": json.dumps(manifest, indent=1).encode()}


def export(model: LatentModel, card: dict[str, Any], out: Path) -> None:
    """Write a trained model as a bundle."""
    bundle.write(out, members(model, card))
