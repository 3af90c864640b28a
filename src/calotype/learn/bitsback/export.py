"""A trained bits-back model -> the members of a bundle."""

from __future__ import annotations

from calotype.bitsback import HALF
from calotype.learn.bitsback.nets import INDEX_BITS, MEAN_LIMIT, PIXEL_LIMIT, DenseVae
from calotype.learn.bitsback.tables import GRID_BITS, MEANS, SCALES, SHAPES
from calotype.learn.dyadic import ACTIVATION_BITS, ACTIVATION_LIMIT, DyadicConv
from calotype.learn.graph import Graph


def _rectified(g: Graph, x: str, layer: DyadicConv) -> str:
    return g.floor_clip(g.dyadic(x, layer, ACTIVATION_BITS), 0, ACTIVATION_LIMIT)


def posterior_graph(net: DenseVae) -> bytes:
    """x -> mean and table of each latent."""
    g = Graph("posterior_0", net)
    x = g.clip(g.input("x", [1, net.pixels, 1, 1]), 0, PIXEL_LIMIT)
    h = _rectified(g, x, net.e1)
    mean = g.floor_clip(g.dyadic(h, net.e2, GRID_BITS, 0), -MEAN_LIMIT, MEAN_LIMIT)
    scale = g.floor_clip(g.dyadic(h, net.e2, INDEX_BITS, 1), 0, SCALES - 1)
    shape = [1, net.latents, 1, 1]
    return g.serialise((g.rename(mean, "mean"), shape), (g.rename(scale, "index"), shape))


def likelihood_graph(net: DenseVae) -> bytes:
    """z -> mean and shape of each pixel's table."""
    g = Graph("likelihood", net)
    z = g.clip(g.input("z_0", [1, net.latents, 1, 1]), -HALF, HALF - 1)
    h = _rectified(g, z, net.d1)
    mean = g.floor_clip(g.dyadic(h, net.d2, INDEX_BITS, 0), 0, MEANS - 1)
    index = g.floor_clip(g.dyadic(h, net.d2, INDEX_BITS, 1), 0, SHAPES - 1)
    shape = [1, net.pixels, 1, 1]
    return g.serialise((g.rename(mean, "mean"), shape), (g.rename(index, "index"), shape))
