"""Training of a bits-back model: the ELBO in bits, under the very tables of the coder, fitted as training goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calotype.bitsback.model import VALUES
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
    muon_rate: float = 5e-3
    adamw_rate: float = 2e-3
    warmup: int = 100
    fit_every: int = 300
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
    """Minus the ELBO, in bits per dimension."""
    with torch.no_grad():
        bits = sum(float((b.pixels + b.latents).sum()) for b in map(model, images.split(EVALUATION_BATCH)))
    return bits / images.numel()


class Training:
    """A model as it learns.

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
        self.assumed = beta_binomials()
        matrices = [p for p in self.model.parameters() if p.ndim == 2]
        biases = [p for p in self.model.parameters() if p.ndim == 1]
        self.optimisers = [Muon(matrices, lr=recipe.muon_rate), torch.optim.AdamW(biases, lr=recipe.adamw_rate)]
        self.step = 0

    def fit_tables(self, images: Tensor, *, counted: bool) -> None:
        """Fit the pixel tables to images: tilt the beta-binomials, and, if `counted`, mix in what was counted."""
        counts = count_pixels(self.model, images).astype(np.float64)
        self.assumed = tilted(self.assumed, counts)
        self.model.cost.use(counts + ASSUMED_PIXELS * self.assumed if counted else self.assumed)

    def advance(self, values: Tensor, progress: float) -> float:
        """One step; returns the batch's bits per dimension."""
        coded = self.model(values)
        loss = (coded.pixels + coded.latents).mean() / values.shape[1]
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        factor = min(1.0, (self.step + 1) / self.recipe.warmup) * 0.5 * (1 + math.cos(math.pi * progress))
        for optimiser, peak in zip(self.optimisers, (self.recipe.muon_rate, self.recipe.adamw_rate), strict=True):
            optimiser.param_groups[0]["lr"] = peak * factor
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        return loss.item()

    def _batches(self) -> Iterator[Tensor]:
        while True:
            yield from self.images[torch.randperm(len(self.images))].split(self.recipe.batch)

    def run(self, report: Callable[[Row], None]) -> None:
        """Train to the end, then fit the tables to all images."""
        recipe, start, losses = self.recipe, time.monotonic(), list[float]()
        for values in self._batches():
            elapsed = time.monotonic() - start
            progress = max(self.step / recipe.steps, elapsed / (60 * recipe.minutes))
            if progress >= 1:
                break
            losses.append(self.advance(values, progress))
            if self.step % recipe.fit_every == 0:
                chosen = torch.randperm(len(self.images))[: recipe.fit_images]
                self.fit_tables(self.images[chosen], counted=progress > TILT_ONLY)
                report(Row(self.step, elapsed, float(np.mean(losses)), bpd(self.model, self.validation)))
                losses.clear()
        self.fit_tables(self.images, counted=True)
