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
from calotype.learn.graph import numpy_of
from calotype.learn.grow import origin
from calotype.learn.idle import without_idle_units
from calotype.learn.model import Codec
from calotype.learn.networks import (
    analysis_graph,
    hyper_analysis_graph,
    hyper_synthesis_graph,
    preview_graph,
    reach_px,
    step_graph,
    synthesis_graph,
)
from calotype.learn.restore import architecture_of
from calotype.manifest import CONTEXT
from calotype.pixels import EXACT_DB, Picture
from calotype.proof import Layer, prove
from calotype.runtime import Runtime

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
    index = (log_sigma - math.log(prior.SIGMA_MIN)) / prior.log_sigma_step(prior.SIGMA_COUNT)
    table = index.round().clamp(0, prior.SIGMA_COUNT - 1)
    offset = torch.floor(codec.z_prior.mean.table() + 0.5).clamp(-Z_LIMIT, Z_LIMIT)
    bias = torch.floor(codec.h_s.level.table() * 2**STREAM_BITS + 0.5).clamp(-512, 511)
    return {
        "z_table.u8": numpy_of(table).astype("|u1").tobytes(),
        "z_offset.i16": numpy_of(offset).astype("<i2").tobytes(),
        "level_bias.i16": numpy_of(bias).astype("<i2").tobytes(),
    }


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
