"""What a search may change in each family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution

from calotype.learn.textbook.config import CONV_AE, CONV_VAE, DENSE_AE, DENSE_VAE, PCA, VAE_GAN

LOSSLESS_VAE, HVAE = "lossless-vae", "hvae"
ARCHITECTURE, RECIPE = "architecture", "recipe"

Sections = dict[str, dict[str, Any]]
"""As in a recipe's file."""


@dataclass(frozen=True)
class Knob:
    """A number of a recipe: the section it stands in, its name and its range, searched by its logarithm."""

    section: str
    name: str
    low: float
    high: float

    @property
    def distribution(self) -> IntDistribution | FloatDistribution:
        """The range, as Optuna has it; of integers if its least is one."""
        if isinstance(self.low, int):
            return IntDistribution(self.low, int(self.high), log=True)
        return FloatDistribution(self.low, self.high, log=True)


_LATENTS = Knob(ARCHITECTURE, "latents", 8, 128)
_DENSE, _CONV = Knob(ARCHITECTURE, "width", 64, 1024), Knob(ARCHITECTURE, "width", 16, 128)
_RATE, _BETA = Knob(RECIPE, "rate", 3e-4, 1e-2), Knob(RECIPE, "beta", 0.1, 10.0)
_ADVERSARIAL = Knob(RECIPE, "adversarial", 1.0, 1000.0)
_LOSSLESS = (
    Knob(ARCHITECTURE, "latents", 12, 96),
    Knob(ARCHITECTURE, "width", 64, 512),
    Knob(RECIPE, "muon_rate", 1e-3, 5e-2),
)
KNOBS = {
    PCA: (Knob(ARCHITECTURE, "latents", 8, 256),),
    DENSE_AE: (_LATENTS, _DENSE, _RATE),
    CONV_AE: (_LATENTS, _CONV, _RATE),
    DENSE_VAE: (_LATENTS, _DENSE, _RATE, _BETA),
    CONV_VAE: (_LATENTS, _CONV, _RATE, _BETA),
    VAE_GAN: (_LATENTS, _CONV, _RATE, _BETA, _ADVERSARIAL),
    LOSSLESS_VAE: _LOSSLESS,
    HVAE: _LOSSLESS,
}


def sections(arch: str, values: dict[str, Any]) -> Sections:
    """The values of a family's knobs as a recipe; an `hvae` has twice as many latents in its second layer."""
    made: Sections = {ARCHITECTURE: {}, RECIPE: {}}
    for knob in KNOBS[arch]:
        made[knob.section][knob.name] = values[knob.name]
    if arch in (LOSSLESS_VAE, HVAE):
        latents = values["latents"]
        made[ARCHITECTURE]["latents"] = [latents] if arch == LOSSLESS_VAE else [latents, 2 * latents]
    return made
