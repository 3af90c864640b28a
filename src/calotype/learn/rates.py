"""Learning rates of a run that starts from a model: smooth pictures bear smaller ones.

A step moves the weights of the transforms by so much whatever they make, and what it moves shows as noise. Where the
model already restores pictures at a high PSNR, little noise is a lot (docs/training.md, "Short runs").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from torch import Tensor

from calotype.learn.config import Architecture, Recipe
from calotype.learn.data import Pictures
from calotype.learn.grow import grown
from calotype.learn.model import Codec
from calotype.learn.watch import as_unit, curve

USUAL = Recipe(muon_rate=2e-3, transform_share=1.0, adamw_rate=8e-4, warmup=20)
GENTLE = replace(USUAL, muon_rate=7e-4, transform_share=0.3, adamw_rate=3e-4)
SMOOTH_LEVEL, SMOOTH_DB = 160, 42.0
"""Blood cells (39.3 dB) and drawings (37.5) learn better at the usual rates, radiographs (44.3) at the gentle ones."""
MOST_PICTURES = 6


def suited(recipe: Recipe, arch: Architecture, weights: dict[str, Tensor], pictures: Pictures) -> Recipe:
    """A recipe with the rates that suit pictures (h, w, c), which a codec with these weights is to learn."""
    x = as_unit(list(islice(pictures, MOST_PICTURES)), peak=pictures.form.peak)
    chosen = GENTLE if _start_db(arch, weights, x) > SMOOTH_DB else USUAL
    return replace(
        recipe,
        muon_rate=chosen.muon_rate,
        transform_share=chosen.transform_share,
        adamw_rate=chosen.adamw_rate,
        warmup=chosen.warmup,
    )


def _start_db(arch: Architecture, weights: dict[str, Tensor], x: Sequence[Tensor]) -> float:
    codec = Codec(arch)
    codec.load_state_dict(grown(weights, arch, lambda: x[0]))
    return curve(codec, x, (SMOOTH_LEVEL,))[0][0].psnr_db
