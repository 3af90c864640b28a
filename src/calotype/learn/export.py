"""A trained codec -> a bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from calotype import bundle
from calotype.bundle import FORMAT, QUIET, Bundle
from calotype.codec import DEFAULT_EFFORT
from calotype.encoder import PictureCoder
from calotype.hyper import Z_LIMIT, Context
from calotype.learn import prior
from calotype.learn.calibrate import fit, fit_context, observe, quiet, to_frequencies
from calotype.learn.config import VISUAL, Config, Recipe
from calotype.learn.dyadic import STREAM_BITS
from calotype.learn.graph import Graph, numpy_of
from calotype.learn.grow import origin
from calotype.learn.idle import without_idle_units
from calotype.learn.model import Codec
from calotype.learn.prior import HyperSynthesis, StepPrior
from calotype.learn.restore import architecture_of
from calotype.learn.transforms import Analysis, HyperAnalysis, Synthesis
from calotype.manifest import CONTEXT
from calotype.pixels import EXACT_DB, Picture
from calotype.proof import Layer, prove
from calotype.runtime import Runtime
from calotype.steps import channels_by_place
from calotype.tiling import padded

ESCAPE_MASS = 2.0**-20
CURVE_LEVELS = (0, 32, 64, 96, 128, 160, 192, 224, 255)


def frequencies(sigma: float) -> NDArray[np.uint32]:
    """Integer frequencies of -R..R and the escape, summing to 2^24: the mass that training assumed, for a scale."""
    radius = min(4095, math.ceil(6 * sigma) + 8)
    values = torch.arange(-radius, radius + 1, dtype=torch.float64)
    masses = prior.mass(values, torch.tensor(sigma, dtype=torch.float64)).numpy()
    return to_frequencies(np.append(masses, max(ESCAPE_MASS, 1 - masses.sum())))


def family() -> list[NDArray[np.uint32]]:
    """The tables that training assumed, one for each scale."""
    return [frequencies(s) for s in prior.sigma_of(torch.arange(prior.SIGMA_COUNT, dtype=torch.float64)).tolist()]


def table_members(family: Sequence[NDArray[np.uint32]], quiet: Sequence[bool] = ()) -> dict[str, bytes]:
    """The members of a bundle that hold its tables; none is quiet if it is not said."""
    radii = np.array([(len(q) - 2) // 2 for q in family], "<u2")
    radii[np.flatnonzero(quiet)] |= QUIET
    return {"tables.u32": np.concatenate(family).astype("<u4").tobytes(), "radii.u16": radii.tobytes()}


def with_context(content: dict[str, bytes], context: Context) -> dict[str, bytes]:
    """The members of a bundle, and those that say what z's neighbours are for."""
    card = json.loads(content["manifest.json"])
    card["decoding"] = sorted({*card["decoding"], *CONTEXT})
    arrays = zip(CONTEXT, (context.weight.tobytes(), context.table.tobytes()), strict=True)
    return {**content, **dict(arrays), "manifest.json": json.dumps(card, indent=1).encode()}


def _level_arrays(codec: Codec) -> dict[str, bytes]:
    log_sigma = codec.z_prior.log_sigma.table()
    index = (
        ((log_sigma - math.log(prior.SIGMA_MIN)) / prior.log_sigma_step(prior.SIGMA_COUNT))
        .round()
        .clamp(0, prior.SIGMA_COUNT - 1)
    )
    offset = torch.floor(codec.z_prior.mean.table() + 0.5).clamp(-Z_LIMIT, Z_LIMIT)
    bias = torch.floor(codec.h_s.level.table() * 2**STREAM_BITS + 0.5).clamp(-512, 511)
    return {
        "z_table.u8": numpy_of(index).astype("|u1").tobytes(),
        "z_offset.i16": numpy_of(offset).astype("<i2").tobytes(),
        "level_bias.i16": numpy_of(bias).astype("<i2").tobytes(),
    }


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


def manifest(codec: Codec, card: dict[str, Any], decoding: list[str]) -> bytes:
    """manifest.json: what readers need to know, then the card."""
    arch = codec.arch
    needed = {
        "format": FORMAT,
        "channels": arch.channels,
        "y_channels": arch.y_channels,
        "z_channels": arch.z_channels,
        "prior_channels": arch.prior_width,
        "steps": arch.context_steps,
        "heads": [{"name": "psnr", "graph": "g_s.onnx", "reach_px": reach_px(codec.g_s)}],
        "preview": "preview.onnx",
        "decoding": decoding,
        "architecture": asdict(arch),
    }
    return json.dumps({**card, **needed}, indent=1).encode()


def members(
    codec: Codec, card: dict[str, Any], tables: Sequence[NDArray[np.uint32]]
) -> tuple[dict[str, bytes], list[Layer]]:
    """The members of a bundle, and the proof that its prior is exact.

    Args:
        codec: The trained model.
        card: What the manifest says besides: name, version, status, training, licence.
        tables: Frequencies of each table.

    Raises:
        InvalidModel: If the prior cannot be proved exact.
    """
    arch = codec.arch
    steps = {f"step_{t}.onnx": step_graph(step, t, arch.context_steps) for t, step in enumerate(codec.steps)}  # type: ignore[arg-type]
    exact = {"h_s.onnx": hyper_synthesis_graph(codec.h_s), **steps}
    proof = [layer for name, raw in exact.items() for layer in prove(name, raw)]
    synthesis = {
        "g_s.onnx": synthesis_graph(codec.g_s, arch.channels),
        "preview.onnx": preview_graph(codec.g_s, arch.channels),
    }
    decoding = {**table_members(tables), **_level_arrays(codec), **exact, **synthesis}
    analysis = {"g_a.onnx": analysis_graph(codec.g_a, arch.channels), "h_a.onnx": hyper_analysis_graph(codec.h_a)}
    return {**decoding, **analysis, "manifest.json": manifest(codec, card, sorted(decoding))}, proof


def measure(runtime: Runtime, pictures: Sequence[Picture], head: int = 0) -> list[dict[str, float]]:
    """Rate and distortion over pictures: mean bpp of real files and mean PSNR at some levels."""
    coders = [PictureCoder.of(p, runtime, DEFAULT_EFFORT, head) for p in pictures]
    curve: list[dict[str, float]] = []
    for level in CURVE_LEVELS:
        files = [coder.at_level(level) for coder in coders]
        bpp = [8 * len(f) / p.samples[..., 0].size for f, p in zip(files, pictures, strict=True)]
        psnr_db = [min(EXACT_DB, coder.psnr_db(f)) for coder, f in zip(coders, files, strict=True)]
        curve.append({"level": level, "bpp": round(fmean(bpp), 4), "psnr_db": round(fmean(psnr_db), 3)})
    return curve


def export(
    config: Config,
    weights: dict[str, Tensor],
    out: Path,
    calibration: Iterable[Picture],
    validation: Sequence[Picture],
) -> list[Layer]:
    """Write a trained codec as a bundle; returns the proof of its prior.

    Args:
        config: What the codec was made from; it goes into the card.
        weights: Of the codec.
        out: The bundle to write.
        calibration: Training pictures, to whose symbols the tables are fitted; what is idle with them is left out.
        validation: Pictures that were not trained on, for the card's curve.
    """
    pictures = list(calibration)
    codec = Codec(config.architecture)
    codec.load_state_dict(weights)
    codec = without_idle_units(codec, pictures, CURVE_LEVELS)
    card = {**config.card, "recipe": asdict(config.recipe)}
    tables = family()
    content, proof = members(codec, card, tables)
    with TemporaryDirectory() as folder:  # a bundle must exist before it can be calibrated and measured
        draft = Path(folder) / "draft.calomodel"
        bundle.write(draft, content)
        seen = observe(Runtime(bundle.read(draft)), pictures, CURVE_LEVELS)
        content |= table_members(fit(tables, seen.counts), quiet(seen.counts))
        bundle.write(draft, content)
        content = with_context(content, fit_context(seen.z, bundle.read(draft)))
        bundle.write(draft, content)
        card["curve"] = measure(Runtime(bundle.read(draft)), validation)
    content["manifest.json"] = manifest(codec, card, json.loads(content["manifest.json"])["decoding"])
    bundle.write(out, content)
    return proof


def add_visual_head(
    base: Bundle,
    recipe: Recipe,
    weights: dict[str, Tensor],
    made: dict[str, Any],
    out: Path,
    validation: Sequence[Picture],
) -> None:
    """Write a bundle again with another analysis and synthesis, its head `visual`; the prior stays.

    Args:
        base: What the head was trained from.
        recipe: How it was trained.
        weights: Of the codec whose analysis and synthesis these are.
        made: What the card says of it besides.
        out: The bundle to write; it may be the base's own path.
        validation: Pictures that were not trained on, for the card's curve.
    """
    codec = Codec(origin(weights, architecture_of(base)))
    codec.load_state_dict(weights)
    codec.eval()
    channels = codec.arch.channels
    synthesis, analysis = f"g_s_{VISUAL}.onnx", f"g_a_{VISUAL}.onnx"
    graphs = {synthesis: synthesis_graph(codec.g_s, channels), analysis: analysis_graph(codec.g_a, channels)}
    card = json.loads(base.members["manifest.json"])
    heads = [head for head in card["heads"] if head["name"] != VISUAL]
    heads.append({"name": VISUAL, "graph": synthesis, "analysis": analysis, "reach_px": reach_px(codec.g_s)})
    card |= {"heads": heads, "decoding": sorted({*card["decoding"], synthesis})}
    with TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.calomodel"
        bundle.write(draft, {**base.members, **graphs, "manifest.json": json.dumps(card).encode()})
        curve = measure(Runtime(bundle.read(draft)), validation, len(heads) - 1)
    card[VISUAL] = {**made, "recipe": asdict(recipe), "curve": curve}
    bundle.write(out, {**base.members, **graphs, "manifest.json": json.dumps(card, indent=1).encode()})
