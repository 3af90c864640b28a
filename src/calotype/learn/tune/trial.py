"""One trial of a search: a short training, and what its model costs after each quarter of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from calotype import bundle
from calotype.datasets import Dataset
from calotype.learn.bitsback import fit as bitsback
from calotype.learn.bitsback.train import Training, bpd
from calotype.learn.fit import CHECKPOINT
from calotype.learn.textbook import config, fit
from calotype.learn.textbook.config import Config
from calotype.learn.textbook.export import export
from calotype.learn.textbook.loop import Run, epochs
from calotype.learn.textbook.nets import Autoencoder, Pca, Vae, model_of
from calotype.learn.tune.knobs import Sections

QUARTERS = 4
CALIBRATION_IMAGES = 5000
LEAST_BYTES = 0.01
DB_A_BIT = 20 * math.log10(2)


@dataclass(frozen=True)
class Task:
    """What the trials of a search have in common.

    Attributes:
        arch: The family.
        data: What to learn from, and to judge by.
        minutes: Of each trial.
        psnr_db: Where lossy families are compared, by the bytes of an image.
    """

    arch: str
    data: Dataset
    minutes: float
    psnr_db: float

    @property
    def lossless(self) -> bool:
        """Whether the family is judged by bits per dimension."""
        return self.arch in bitsback.USUAL

    @property
    def unit(self) -> str:
        """Of the cost."""
        return "bits per dimension" if self.lossless else f"bytes at {self.psnr_db:g} dB"


def costs(task: Task, recipe: Sections, stopped: Callable[[], bool]) -> Iterator[float]:
    """Train by a recipe; gives what validation images cost after each quarter of the time, until `stopped`."""
    return (_lossless_costs if task.lossless else _lossy_costs)(task, recipe, stopped)


def image_bytes_at(curve: Sequence[dict[str, float]], psnr_db: float, samples: int) -> float:
    """Bytes of an image at a PSNR, interpolated in their logarithm.

    For a curve that ends before, the samples' residual has to be coded, which takes a bit a sample for each 6.02 dB.

    Args:
        curve: Points of `image_bytes` and `psnr_db`.
        psnr_db: Where.
        samples: Of an image.
    """
    points = sorted((p["psnr_db"], math.log(max(p["image_bytes"], LEAST_BYTES))) for p in curve)
    known, sizes = zip(*points, strict=True)
    missing_db = max(0.0, psnr_db - known[-1])
    return math.exp(float(np.interp(psnr_db, known, sizes))) + samples * missing_db / DB_A_BIT / 8


def _lossy_costs(task: Task, recipe: Sections, stopped: Callable[[], bool]) -> Iterator[float]:
    plan = config.merged(recipe, fit.base_of(task.arch, task.data, "trial"), "tune")
    plan = replace(plan, recipe=replace(plan.recipe, minutes=task.minutes, epochs=0))
    net = model_of(plan.architecture, plan.recipe)
    fit.settle(net, task.data.train.images)
    if isinstance(net, Pca):
        yield _cost(net, plan, task)
        return
    run = Run(net, plan.recipe, fit.tensor(task.data.train.images), fit.tensor(task.data.validation.images))
    for quarter in range(1, QUARTERS + 1):
        _advance(run, quarter / QUARTERS, stopped)
        if stopped():
            return
        if quarter == QUARTERS:
            net.load_state_dict(run.best)
        yield _cost(net, plan, task)


def _advance(run: Run, progress: float, stopped: Callable[[], bool]) -> None:
    with TemporaryDirectory() as folder:
        for _ in epochs(run, Path(folder) / CHECKPOINT, lambda: stopped() or run.progress >= progress):
            pass


def _cost(net: Autoencoder | Vae, plan: Config, task: Task) -> float:
    """Real bytes of all validation images in one chunk."""
    images = np.array(task.data.train.images[:CALIBRATION_IMAGES])
    with TemporaryDirectory() as folder:
        draft = Path(folder) / f"draft{bundle.SUFFIX}"
        export(net, plan, images, np.array(task.data.validation.images), draft)
        curve = bundle.read_file(draft).card["curve"]
    return image_bytes_at(curve, task.psnr_db, images[0].size)


def _lossless_costs(task: Task, recipe: Sections, stopped: Callable[[], bool]) -> Iterator[float]:
    plan = bitsback.planned(task.arch, recipe, "tune", task.data, "trial", {"minutes": task.minutes})
    train, validation = (bitsback.tensor(part) for part in (task.data.train, task.data.validation))
    training = Training(plan.architecture, plan.recipe, train, validation)
    for quarter in range(1, QUARTERS + 1):
        ended = training.run(lambda _: None, lambda q=quarter: stopped() or training.progress >= q / QUARTERS)
        if stopped():
            return
        yield bpd(training.model, validation) if ended else training.refit().validation_bpd
