"""The graphs of a codec's networks, as a bundle holds them (SPEC.md, section 5.2)."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from calotype.hyper import Z_LIMIT
from calotype.learn import prior
from calotype.learn.dyadic import STREAM_BITS
from calotype.learn.graph import Graph, numpy_of
from calotype.learn.prior import HyperSynthesis, StepPrior
from calotype.learn.transforms import Analysis, HyperAnalysis, Synthesis
from calotype.steps import channels_by_place
from calotype.tiling import padded


def _features(g: Graph, x: str, net: Analysis | Synthesis, level: str) -> str:
    half, width = len(net.blocks) // 2, net.feature_gain.knots.shape[1]
    for i, block in enumerate(net.blocks):
        if i == half:
            x = g.in_blocks(g.op("Mul", x, g.gain(net.feature_gain, level)), width)
        x = g.block(x, block)  # type: ignore[arg-type]
    return x


def _level_input(g: Graph) -> str:
    return g.input("level", [1], TensorProto.INT64)


def analysis_graph(net: Analysis, channels: int) -> bytes:
    """g_a: x, level -> y."""
    g = Graph("g_a", net)
    x, level = g.input("x", [1, channels, "h", "w"]), _level_input(g)
    direct = g.strided(x, net.shortcut, 16)
    x = _features(g, g.strided(x, net.stem, 8), net, level)
    y = g.op("Add", g.strided(x, net.down, 2), direct)
    y = g.op("Mul", y, g.gain(net.gain, level))
    return g.serialise((g.rename(y, "y"), [1, len(net.down.weight), "h16", "w16"]))


def synthesis_graph(net: Synthesis, channels: int) -> bytes:
    """g_s: y, level -> x."""
    g = Graph("g_s", net)
    y, level = g.input("y", [1, net.up.weight.shape[1], "h", "w"]), _level_input(g)
    y = g.op("Mul", y, g.gain(net.gain, level))
    x = g.in_blocks(g.shuffle(g.linear(y, net.up), 2), net.feature_gain.knots.shape[1])
    x = _features(g, x, net, level)
    x = g.op("Add", g.shuffle(g.linear(x, net.head), 8), g.shuffle(g.linear(y, net.shortcut), 16))
    x = x if net.detail is None else g.detail(x, net.detail, level)
    return g.serialise((g.rename(x, "x"), [1, channels, "h16", "w16"]))


def reach_px(net: Synthesis) -> int:
    """How far around a pixel g_s looks: 8 pixels for each block, in whole elements of y.

    `Detail` looks two pixels further; in `photo`, what those lack of yet another 16 is a twentieth of a level at most.
    """
    return padded(8 * len(net.blocks), 16)


def preview_graph(net: Synthesis, channels: int) -> bytes:
    """The linear path of g_s alone, averaged over 16x16 pixels: y, level -> thumbnail."""
    up = numpy_of(net.up.weight).astype(np.float64)
    head = numpy_of(net.head.weight).astype(np.float64).reshape(channels, 64, -1).mean(1)
    direct = numpy_of(net.shortcut.weight).astype(np.float64).reshape(channels, 256, -1).mean(1)
    fold = np.einsum("cw,wsm->cm", head, up.reshape(head.shape[1], 4, -1)) / 4 + direct
    offset = head @ numpy_of(net.up.bias).reshape(-1, 4).mean(1)
    offset += sum(numpy_of(layer.bias).reshape(channels, -1).mean(1) for layer in (net.head, net.shortcut))
    g = Graph("preview", net)
    y, level = g.input("y", [1, up.shape[1], "h", "w"]), _level_input(g)
    scaled = g.op("Mul", y, g.gain(net.gain, level))
    x = g.conv(scaled, "fold", fold[:, :, None, None].astype(np.float32), offset)
    return g.serialise((g.rename(x, "x"), [1, channels, "h", "w"]))


def hyper_analysis_graph(net: HyperAnalysis) -> bytes:
    """h_a: y -> z."""
    g = Graph("h_a", net)
    y = g.input("y", [1, net.stem.weight.shape[1], "h", "w"])
    magnitude = g.op("Log", g.op("Add", g.op("Abs", y), g.constant(1.0)))
    x = g.block(g.linear(g.op("Mul", g.op("Sign", y), magnitude), net.stem), net.first)
    x = g.block(g.strided(x, net.down, 2), net.second)
    z = g.strided(x, net.head, 2)
    return g.serialise((g.rename(z, "z"), [1, len(net.head.weight), "h4", "w4"]))


def hyper_synthesis_graph(net: HyperSynthesis) -> bytes:
    """h_s: z, level_bias -> features, all integers."""
    width, channels = net.stem.weight.shape
    g = Graph("h_s", net)
    z = g.clip(g.input("z", [1, channels, "a", "b"]), -Z_LIMIT, Z_LIMIT)
    bias = g.clip(g.input("level_bias", [1, width, 1, 1]), -512, 511)
    r = g.stream(g.op("Add", g.dyadic(z, net.stem, STREAM_BITS), bias))
    for block, up in ((net.coarse, net.up_coarse), (net.middle, net.up_middle)):
        r = g.stream(g.dyadic(g.dyadic_block(r, block), up, STREAM_BITS))
        r = g.shuffle(r, 2)
    features = g.dyadic_block(r, net.fine)
    return g.serialise((g.rename(features, "features"), [1, width, "h", "w"]))


def _planes(g: Graph, y_channels: int) -> str:
    y8 = g.clip(g.input("known", [1, y_channels, "h", "w"]), -(1 << 20), 1 << 20)
    coarse = g.op("Floor", g.op("Mul", g.op("Add", y8, g.constant(16.0)), g.constant(2.0**-5)))
    fine = g.clip(y8, -prior.FINE_LIMIT, prior.FINE_LIMIT)
    return g.op("Concat", fine, g.clip(coarse, -prior.COARSE_LIMIT, prior.COARSE_LIMIT), axis=1)


def step_graph(net: StepPrior, t: int, steps: int) -> bytes:
    """Step t: features (and known, in eighths) -> mean in eighths, index.

    With four steps the head, a fifth of the work, runs only where the step codes something.
    """
    width, m = net.head.weight.shape[1], len(net.head.weight) // 2
    g = Graph(f"step_{t}", net)
    r = g.clip(g.input("features", [1, width, "h", "w"]), -512, 511)
    if net.known is not None:
        r = g.stream(g.op("Add", r, g.dyadic(_planes(g, m), net.known, STREAM_BITS)))
    for block in net.blocks:
        r = g.dyadic_block(r, block)  # type: ignore[arg-type]
    order, sides = None, ("h", "w")
    if steps == 4:
        r, order, sides = g.op("SpaceToDepth", r, blocksize=2), channels_by_place(t, m), ("h2", "w2")
    mean, index = (
        g.dyadic(r, net.head, bits, half, order) for half, bits in enumerate((prior.MEAN_BITS, prior.INDEX_BITS))
    )
    mean = g.floor_clip(mean, -prior.MEAN_LIMIT, prior.MEAN_LIMIT)
    index = g.floor_clip(index, 0, prior.SIGMA_COUNT - 1)
    return g.serialise((g.rename(mean, "mean"), [1, m, *sides]), (g.rename(index, "index"), [1, m, *sides]))
