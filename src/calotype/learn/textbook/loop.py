"""The training loop for small images, and the file from which it goes on.

All that is random depends on the seed and on the number of the step, so a resumed run is the same bit for bit; but with
`minutes` the schedule follows the clock.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype.errors import CalotypeError
from calotype.learn import checkpoint
from calotype.learn.textbook.config import Recipe
from calotype.learn.textbook.nets import Trainable
from calotype.learn.textbook.prepare import augmented

EVALUATED_AT_ONCE = 500
ENDLESS = float("inf")
_NUMBERS = ("step", "judged_step", "seconds", "loss_sum", "best", "best_epoch", "best_loss")


@dataclass(frozen=True)
class Row:
    """An epoch: its number from 1, mean losses, the learning rate, seconds so far, and how much of the run is over."""

    epoch: int
    loss: float
    validation: float
    rate: float
    seconds: float
    progress: float


@torch.no_grad()
def evaluate(net: Trainable, images: Tensor, seed: int) -> float:
    """Mean loss over images, always with the same noise."""
    net.eval()
    torch.manual_seed(seed)
    parts = images.split(EVALUATED_AT_ONCE)
    return sum(float(net.loss(part)) * len(part) for part in parts) / len(images)


@lru_cache(maxsize=1)
def _order(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


class Run:
    """A training run: everything that changes while it goes on.

    Args:
        net: What is trained, in place.
        recipe: How.
        train: Images (n, h, w, c), uint8.
        validation: Images to judge by.
    """

    def __init__(self, net: Trainable, recipe: Recipe, train: Tensor, validation: Tensor) -> None:
        self.net, self.recipe, self.train, self.validation = net, recipe, train, validation
        sgd = recipe.optimiser == "sgd"
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.SGD(net.parameters(), recipe.rate, recipe.momentum)
            if sgd
            else torch.optim.Adam(net.parameters(), recipe.rate)
        )
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=0.5, patience=recipe.patience, threshold=0.0, threshold_mode="abs"
        )
        self.steps_an_epoch = math.ceil(len(train) / recipe.batch)
        self.step, self.judged_step, self.seconds, self.loss_sum = 0, 0, 0.0, 0.0
        self.best, self.best_epoch, self.best_loss = copy.deepcopy(net.state_dict()), 0, ENDLESS

    @property
    def progress(self) -> float:
        """How much of the run is over, by epochs or by minutes, 0 to 1."""
        minutes, epochs = self.recipe.minutes, self.recipe.epochs
        by_time = self.seconds / (60 * minutes) if minutes else 0.0
        by_epochs = self.step / (self.steps_an_epoch * epochs) if epochs else 0.0
        return min(1.0, max(by_time, by_epochs))

    @property
    def finished(self) -> bool:
        """Whether it has run its epochs or minutes, reached its target, or no longer gets better."""
        epoch, recipe = self.step // self.steps_an_epoch, self.recipe
        reached = recipe.target_loss and self.best_loss <= recipe.target_loss
        stuck = recipe.schedule == "plateau" and epoch - self.best_epoch > 4 * recipe.patience
        return self.progress >= 1 or bool(reached) or stuck

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        modules = {name: getattr(self, name).state_dict() for name in ("net", "optimiser", "plateau")}
        return modules | {name: getattr(self, name) for name in _NUMBERS}

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        for name in ("net", "optimiser", "plateau"):
            getattr(self, name).load_state_dict(state[name])
        for name in _NUMBERS:
            setattr(self, name, state[name])

    def advance(self) -> None:
        """One step."""
        recipe, (epoch, place) = self.recipe, divmod(self.step, self.steps_an_epoch)
        order = _order(len(self.train), recipe.seed + epoch)
        images = self.train[order[place * recipe.batch : (place + 1) * recipe.batch].to(self.train.device)]
        torch.manual_seed(hash((recipe.seed, self.step)) & (2**63 - 1))
        if recipe.schedule == "cosine":
            self._rate = recipe.rate * 0.5 * (1 + math.cos(math.pi * self.progress))
        self.net.train()
        warm = min(1.0, self.step / max(1, recipe.warmup * self.steps_an_epoch))
        loss = self.net.loss(augmented(images, recipe.augment), warm)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.loss_sum += loss.item()
        self.step += 1

    @property
    def _rate(self) -> float:
        return self.optimiser.param_groups[0]["lr"]

    @_rate.setter
    def _rate(self, value: float) -> None:
        self.optimiser.param_groups[0]["lr"] = value

    def judge(self) -> Row:
        """Judge the weights, keep them if they are the best so far, lower the rate if need be.

        Raises:
            CalotypeError: If the loss is no longer a number.
        """
        epoch, begun = divmod(self.step, self.steps_an_epoch)
        validation = evaluate(self.net, self.validation, self.recipe.seed)
        if not math.isfinite(validation):
            raise CalotypeError(f"epoch {epoch}: the loss is not finite; lower the recipe's rate, {self.recipe.rate:g}")
        if validation < self.best_loss or not self.net.keeps_best:
            self.best, self.best_epoch, self.best_loss = copy.deepcopy(self.net.state_dict()), epoch, validation
        if self.recipe.schedule == "plateau":
            self.plateau.step(validation)
        loss = self.loss_sum / (begun or self.steps_an_epoch)
        self.judged_step = self.step
        return Row(epoch, loss, validation, self._rate, self.seconds, self.progress)


def epochs(run: Run, saved: Path, stopped: Callable[[], bool] = lambda: False) -> Iterator[Row]:
    """Train until the run is finished or stopped, saving it after every epoch and at the end; gives each epoch.

    Args:
        run: It is advanced.
        saved: Its checkpoint.
        stopped: Asked after each step.
    """
    while not run.finished and not stopped():
        start = time.monotonic()
        run.advance()
        run.seconds += time.monotonic() - start
        if run.step % run.steps_an_epoch == 0:
            row = run.judge()
            run.loss_sum = 0.0
            checkpoint.save(run.state(), saved)
            yield row
    if run.finished and run.judged_step != run.step:  # the minutes are over
        yield run.judge()
    checkpoint.save(run.state(), saved)
