"""Training of a bits-back model: the ELBO in bits, under the very tables of the coder, fitted as training goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calotype.bitsback.model import VALUES
from calotype.errors import CalotypeError
from calotype.learn.bitsback.nets import Architecture, LatentModel
from calotype.learn.bitsback.tables import MEANS, SHAPES, beta_binomials, tilted
from calotype.learn.muon import Muon

EVALUATION_BATCH = 500
ASSUMED_PIXELS = 1000
"""The tilted beta-binomial counts as much as so many pixels in each table."""
TILT_ONLY = 0.3
"""The share of the training in which tables are only tilted, not yet counted: networks come first."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        steps: Optimiser steps.
        minutes: End after so long, if that comes first.
        batch: Images a step.
        muon_rate: Peak learning rate of matrices.
        adamw_rate: Peak learning rate of biases.
        warmup: Steps until the peak; a cosine leads from there to zero.
        fit_every: Steps between fits of the pixel tables.
        fit_images: Images that a fit counts.
        seed: Seed of all that is random.
    """

    steps: int = 16_000
    minutes: float = 15.0
    batch: int = 200
    muon_rate: float = 1e-2
    adamw_rate: float = 2e-3
    warmup: int = 100
    fit_every: int = 150
    fit_images: int = 15_000
    seed: int = 1


@dataclass(frozen=True)
class Row:
    """Where a training stands: bits per dimension of the batches since the last row, and of images held out."""

    step: int
    seconds: float
    train_bpd: float
    validation_bpd: float


def count_pixels(model: LatentModel, images: Tensor) -> NDArray[np.int64]:
    """How often each value occurs under each pixel table, (table, value)."""
    counts = torch.zeros(MEANS * SHAPES * VALUES, dtype=torch.long)
    with torch.no_grad():
        for values in images.split(EVALUATION_BATCH):
            coded = model(values)
            place = (coded.mean.long() * SHAPES + coded.shape.long()) * VALUES + values
            counts += torch.bincount(place.flatten(), minlength=len(counts))
    return counts.reshape(-1, VALUES).numpy()


def bpd(model: LatentModel, images: Tensor) -> float:
    """Minus the ELBO, in bits per dimension, always with the same noise."""
    torch.manual_seed(0)
    with torch.no_grad():
        bits = sum(float((b.pixels + b.latents).sum()) for b in map(model, images.split(EVALUATION_BATCH)))
    return bits / images.numel()


@lru_cache(maxsize=1)
def _order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(hash((seed, epoch)) & (2**63 - 1)))


class Training:
    """A model as it learns. All that is random follows from the seed and the number of the step.

    Args:
        arch: Its sizes.
        recipe: How.
        images: What from, (n, d) uint8.
        validation: What it is judged by, (n, d) uint8.
    """

    def __init__(self, arch: Architecture, recipe: Recipe, images: Tensor, validation: Tensor) -> None:
        self.recipe, self.images, self.validation = recipe, images, validation
        torch.manual_seed(recipe.seed)
        self.model = LatentModel(arch)
        self.assumed = self.masses = beta_binomials()
        matrices = [p for p in self.model.parameters() if p.ndim == 2]
        biases = [p for p in self.model.parameters() if p.ndim == 1]
        self.optimisers = [Muon(matrices, lr=recipe.muon_rate), torch.optim.AdamW(biases, lr=recipe.adamw_rate)]
        self.step, self.seconds, self.loss_sum = 0, 0.0, 0.0
        self.fitted = False

    @property
    def progress(self) -> float:
        """How much is over, by steps or by minutes, 0 to 1."""
        return min(1.0, max(self.step / self.recipe.steps, self.seconds / (60 * self.recipe.minutes)))

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "model": self.model.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "tables": [torch.from_numpy(self.assumed), torch.from_numpy(self.masses)],
            "numbers": [self.step, self.seconds, self.loss_sum],
            "fitted": self.fitted,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.assumed, self.masses = (table.numpy() for table in state["tables"])
        self.model.cost.use(self.masses)
        self.step, self.seconds, self.loss_sum = state["numbers"]
        self.fitted = state.get("fitted", False)

    def fit_tables(self, images: Tensor, *, counted: bool) -> None:
        """Fit the pixel tables to images: tilt the beta-binomials, and, if `counted`, mix in what was counted."""
        counts = count_pixels(self.model, images).astype(np.float64)
        self.assumed = tilted(self.assumed, counts)
        self.masses = counts + ASSUMED_PIXELS * self.assumed if counted else self.assumed
        self.model.cost.use(self.masses)

    def advance(self) -> None:
        """One step."""
        recipe, per_epoch = self.recipe, math.ceil(len(self.images) / self.recipe.batch)
        epoch, place = divmod(self.step, per_epoch)
        chosen = _order(len(self.images), recipe.seed, epoch)[place * recipe.batch : (place + 1) * recipe.batch]
        torch.manual_seed(hash((recipe.seed, self.step)) & (2**63 - 1))
        coded = self.model(self.images[chosen])
        loss = (coded.pixels + coded.latents).mean() / self.images.shape[1]
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        factor = min(1.0, (self.step + 1) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * self.progress))
        for optimiser, peak in zip(self.optimisers, (recipe.muon_rate, recipe.adamw_rate), strict=True):
            optimiser.param_groups[0]["lr"] = peak * factor
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        self.fitted = False
        self.loss_sum += loss.item()

    def refit(self) -> Row:
        """Fit the tables to some images, and see where the training stands.

        Raises:
            CalotypeError: If the loss is no longer a number.
        """
        chosen = _order(len(self.images), -1, self.step)[: self.recipe.fit_images]
        self.fit_tables(self.images[chosen], counted=self.progress > TILT_ONLY)
        row = Row(self.step, self.seconds, self.loss_sum / self.recipe.fit_every, bpd(self.model, self.validation))
        if not math.isfinite(row.validation_bpd):
            raise CalotypeError(f"step {self.step}: the loss is not finite; lower muon_rate, {self.recipe.muon_rate:g}")
        self.loss_sum = 0.0
        return row

    def run(self, report: Callable[[Row], None], stopped: Callable[[], bool] = lambda: False) -> bool:
        """Train until the end, and fit the tables to all images, once; or until `stopped`.

        Returns:
            Whether it is at its end.
        """
        while self.progress < 1 and not stopped():
            start = time.monotonic()
            self.advance()
            row = self.refit() if self.step % self.recipe.fit_every == 0 else None
            self.seconds += time.monotonic() - start
            if row is not None:
                report(row)
        if self.progress < 1:
            return False
        if not self.fitted:
            self.fit_tables(self.images, counted=True)
            self.fitted = True
        return True
