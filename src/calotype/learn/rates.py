"""Learning rates of a run on someone's own pictures: smooth pictures bear smaller ones.

A step moves the weights of the transforms by so much whatever they make, and what it moves shows as noise. Where a run
begins by restoring its pictures at a high PSNR, little noise is a lot (docs/training.md, "Short runs").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from calotype.learn.config import Architecture, Recipe
from calotype.learn.data import Crops
from calotype.learn.grow import grown
from calotype.learn.model import Codec
from calotype.learn.split import Data
from calotype.learn.start import START_CROPS, start_as_transform
from calotype.learn.transforms import Block
from calotype.learn.watch import as_unit, curve

SMOOTH_LEVEL = 160
MOST_PICTURES = 6
RATES = ("muon_rate", "transform_share", "shortcut_share", "adamw_rate", "warmup")


@dataclass(frozen=True)
class Rates:
    """What RATES of a recipe are.

    Attributes:
        usual: For most pictures.
        gentle: For those that the run begins by restoring at more than `smooth_db`, at level SMOOTH_LEVEL.
    """

    usual: Recipe
    gentle: Recipe
    smooth_db: float


FROM_MODEL = Rates(
    Recipe(muon_rate=2e-3, adamw_rate=8e-4, warmup=20),
    Recipe(muon_rate=7e-4, transform_share=0.3, shortcut_share=0.3, adamw_rate=3e-4, warmup=20),
    smooth_db=42.0,
)
"""Drawings (37.5 dB) and blood cells (39.3) learn better at the usual rates, radiographs (44.3) at the gentle ones."""
_FROM_NONE = Recipe(muon_rate=5e-3, shortcut_share=0.07, adamw_rate=2e-3, warmup=50)
FROM_NONE = Rates(_FROM_NONE, replace(_FROM_NONE, transform_share=0.07), smooth_db=38.0)
"""The same of the linear transform: 34.9, 36.8 and 39.8 dB."""


def suited(recipe: Recipe, arch: Architecture, weights: dict[str, Tensor] | None, data: Data) -> Recipe:
    """A recipe with the rates that suit what a codec is to learn, from these weights or else as a transform."""
    pictures = data.validation
    x = as_unit(list(islice(pictures, MOST_PICTURES)), peak=pictures.form.peak)
    codec, crops = Codec(arch), Crops(data.train, data.fine, recipe)
    if weights is None:
        _make_linear(codec, crops.first(START_CROPS))
    else:
        codec.load_state_dict(grown(weights, arch, partial(crops.first, 1)))
    rates = FROM_NONE if weights is None else FROM_MODEL
    start_db = curve(codec, x, (SMOOTH_LEVEL,))[0][0].psnr_db
    chosen = rates.gentle if start_db > rates.smooth_db else rates.usual
    return replace(recipe, **{name: getattr(chosen, name) for name in RATES})


@torch.no_grad()
def _make_linear(codec: Codec, crops: Tensor) -> None:
    """The codec as it starts, without what its blocks, which are random yet, add."""
    start_as_transform(codec, crops)
    for block in codec.modules():
        if isinstance(block, Block):
            block.c.weight.zero_()
            block.e.weight.zero_()
