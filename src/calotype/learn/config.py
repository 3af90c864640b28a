"""What a codec is made of and how it is trained, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from calotype.errors import OptionError
from calotype.learn import plan
from calotype.manifest import HALO_PX, LIMITS

MSE, VISUAL = OBJECTIVES = "mse", "visual"
ALL, SYNTHESIS = TRAINED = "all", "synthesis"
RECIPES = Path(__file__).parent / "recipes"
MOST_DETAIL = 30
"""As wide as readers let a tensor of 66x66 be, a tile of 64 and a ring around it (SPEC.md, section 5.2)."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of the networks of one codec.

    Attributes:
        channels: Channels of the picture.
        y_channels: Channels of the latent y, at 1/16 of the picture's size; a multiple of 4.
        z_channels: Channels of the hyper-latent z, at 1/64.
        width: Width of analysis and synthesis, at 1/8.
        blocks: Blocks in each of analysis and synthesis, at most 8: each sees 8 pixels further around, and large
            pictures are coded in pieces with `HALO_PX` around them.
        detail: Width of the last layers of the synthesis, at full size; 0 for none.
        prior_width: Width of the dyadic prior, at 1/16 and lower.
        context_steps: Steps in which y is coded, each seeing what the earlier ones coded: 2 or 4.
        context_blocks: Blocks of each step but the first, which has one.
        knots: Points between which everything that depends on the level is interpolated.
        lambda_min: Weight of the distortion at level 0.
        lambda_max: Weight of the distortion at level 255.
    """

    channels: int = 3
    y_channels: int = 448
    z_channels: int = 96
    width: int = 128
    blocks: int = 4
    detail: int = 24
    prior_width: int = 192
    context_steps: int = 4
    context_blocks: int = 2
    knots: int = 9
    lambda_min: float = 0.0005
    lambda_max: float = 0.5


@dataclass(frozen=True)
class Recipe:
    """How a codec is trained.

    Attributes:
        steps: Optimiser steps in all.
        minutes: Time of training after which the run ends if its steps are not done by then; 0 for none. The learning
            rate follows whichever is nearer to its end.
        batch: Crops a step, over all processes.
        crop_px: Side of a crop; a multiple of 64.
        muon_rate: Peak learning rate of matrices (Muon, scaled to AdamW's RMS).
        transform_share: Of `muon_rate`, what the matrices of analysis and synthesis take; the prior's take all of it.
        shortcut_share: Of `muon_rate`, what their linear shortcuts take, whose noise goes straight into the picture.
        adamw_rate: Peak learning rate of everything else.
        warmup: Steps until the peak, 0 or more; a cosine leads from there to zero.
        clip: Largest norm of the gradient.
        ema: Decay of the moving average of the weights that is exported.
        dyadic_from: Step from which the prior's weights are rounded.
        fine_level: From this level on, crops come from the lossless pictures half the time.
        grain: Share of the crops that get grain, as film and sensors have it and compressed pictures do not.
        shrunk: Share of the crops that are made from a larger square, up to twice as wide, where the picture has one.
        seed: Seed of weights, crops and noise.
        objective: What error is weighed against the rate: `mse`, or `visual`, a mixture that says how a picture looks;
            it trains analysis and synthesis alone, as a second head of the model that the run starts from.
        trains: `all` parts that the objective does, or the `synthesis` alone, which the bits do not depend on.
    """

    steps: int = 15_000
    minutes: float = 0.0
    batch: int = 16
    crop_px: int = 128
    muon_rate: float = 5e-3
    transform_share: float = 1.0
    shortcut_share: float = 1.0
    adamw_rate: float = 2e-3
    warmup: int = 200
    clip: float = 1.0
    ema: float = 0.999
    dyadic_from: int = 0
    fine_level: int = 144
    grain: float = 0.0
    shrunk: float = 0.0
    seed: int = 1
    objective: str = MSE
    trains: str = ALL


@dataclass(frozen=True)
class Config:
    """All that a run is made from, and that its bundle says of it.

    Attributes:
        card: What the bundle's manifest says besides: name, version, status, licence, data.
    """

    architecture: Architecture = field(default_factory=Architecture)
    recipe: Recipe = field(default_factory=Recipe)
    card: dict[str, Any] = field(default_factory=lambda: {"name": "mine", "version": "1", "status": "preview"})


_MAY_BE_ZERO = {"minutes", "warmup", "dyadic_from", "fine_level"}
_SMALLEST = 1e-9
_LIMITS: dict[str, tuple[float, float]] = {
    **{
        name: (0 if name in _MAY_BE_ZERO else 1 if isinstance(value, int) else _SMALLEST, plan.MOST)
        for name, value in (asdict(Architecture()) | asdict(Recipe())).items()
    },
    **{name: (1, LIMITS[name]) for name in ("channels", "y_channels", "z_channels")},
    "prior_width": (1, LIMITS["prior_channels"]),
    "detail": (0, MOST_DETAIL),
    "blocks": (1, HALO_PX // 8),
    "ema": (0, 1),
    "grain": (0, 1),
    "shrunk": (0, 1),
    "seed": (0, 2**32 - 1),
}
_RULES = plan.Rules(
    limits=_LIMITS,
    choices={"context_steps": (2, 4), "objective": OBJECTIVES, "trains": TRAINED},
    multiples={"crop_px": 64, "y_channels": 4},
)


def read(name: str | Path) -> Config:
    """A config by the name of a recipe that comes with the package, or from a JSON file; what it leaves out is default.

    Raises:
        OptionError: If there is none, or it holds what a config does not.
    """
    shipped = RECIPES / f"{name}.json"
    path = shipped if shipped.is_file() else Path(name)
    shipped_names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.json")))
    values = plan.sections(path, f"; give a JSON file or one of: {shipped_names}")
    card = {**Config().card, **values.get("card", {})}
    plan.check_card(card, str(path))
    arch = plan.changed(Architecture(), values.get("architecture", {}), str(path), _RULES)
    if arch.lambda_min > arch.lambda_max:
        raise OptionError(f"{path}: lambda_min {arch.lambda_min:g} is over lambda_max {arch.lambda_max:g}")
    return Config(arch, changed(Recipe(), values.get("recipe", {}), str(path)), card)


def changed(recipe: Recipe, values: Mapping[str, Any], source: str) -> Recipe:
    """A recipe with other values; `source` says where they come from.

    Raises:
        OptionError: If one is not allowed.
    """
    return plan.changed(recipe, values, source, _RULES)
