"""A training run: what it holds, one step, and the loop around it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from calotype.errors import CalotypeError
from calotype.learn.config import SYNTHESIS, VISUAL, Config, Recipe
from calotype.learn.data import Crops
from calotype.learn.dyadic import set_exact
from calotype.learn.grow import grown
from calotype.learn.look import visual_error
from calotype.learn.model import Codec, lambda_of, within
from calotype.learn.muon import Muon
from calotype.learn.start import START_CROPS, start_as_transform
from calotype.learn.transforms import as_shown

GROWTH_CROPS = 384
MOST_ROLLBACKS = 8
SLOWER = 0.5
REPORTED_EVERY = 50
TRANSFORMS = ("g_a.", "g_s.")
SOUND = 0.7
"""How far from grey samples may lie at no cost: those of pictures lie within 0.5, and what overshoots is cut off."""
STATE = {"step", "seconds", "rollbacks", "codec", "average", "optimisers"}
"""What a checkpoint of a run holds."""


class DivergedError(CalotypeError):
    """Training gave numbers that are not finite, again and again."""


def mse(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean squared error of each picture of a batch, (b,)."""
    return (x_hat - x).square().mean((1, 2, 3))


def beyond(x_hat: Tensor) -> Tensor:
    """Mean square of how far samples lie out of `SOUND`, where a synthesis runs away; of each picture (b,)."""
    return (x_hat.abs() - SOUND).clamp_min(0).square().mean((1, 2, 3))


class Objective(nn.Module):
    """Loss, mean bpp and mean mse of a batch, (3,); the loss is over sqrt(lambda), so that all levels count.

    Padding, which a decoder cuts off, is no part of it.

    Args:
        codec: What is trained.
        error: Of pictures x and x_hat (b, c, h, w), in units of mse (b,); what the rate is weighed against.
    """

    def __init__(self, codec: Codec, error: Callable[[Tensor, Tensor], Tensor] = mse) -> None:
        super().__init__()
        self.codec, self.error = codec, error

    def forward(self, x: Tensor, level: Tensor, size_px: Tensor | None = None) -> Tensor:
        coded, lam = self.codec(x, level, size_px), lambda_of(self.codec.arch, level)
        made, pixels, share = coded.x_hat, x.shape[2] * x.shape[3], 1.0
        if size_px is not None:
            shown = within(size_px, x)
            made, pixels, share = torch.where(shown, made, x), size_px.prod(1), shown.float().mean((1, 2, 3))
        x_hat, bpp = as_shown(made), (coded.y_bits + coded.z_bits) / pixels
        distortion = (self.error(x, x_hat) + beyond(made)) / share
        loss = (bpp + lam * 255**2 * distortion) / lam.sqrt()
        return torch.stack([loss.mean(), bpp.mean(), (mse(x, x_hat) / share).mean()])


def rate_factor(step: int, recipe: Recipe, seconds: float = 0.0) -> float:
    """The learning rate over its peak: linear warm-up, then a cosine to zero, by steps or by the clock."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    by_steps = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(by_steps, _by_time(recipe, seconds)))))


def _by_time(recipe: Recipe, seconds: float) -> float:
    return seconds / (60 * recipe.minutes) if recipe.minutes else 0.0


def optimisers(codec: Codec, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for vectors, knots and depthwise kernels, as far as they are to be trained."""
    prior, transforms, shortcuts, others = (list[nn.Parameter]() for _ in range(4))
    for name, p in codec.named_parameters():
        if p.requires_grad:
            if p.ndim != 2 or name.endswith("knots"):
                others.append(p)
            elif name.startswith(TRANSFORMS):
                (shortcuts if ".shortcut." in name else transforms).append(p)
            else:
                prior.append(p)
    shares = (prior, 1.0), (transforms, recipe.transform_share), (shortcuts, recipe.shortcut_share)
    groups = [{"params": matrices, "lr": recipe.muon_rate * share} for matrices, share in shares]
    return [Muon(groups, lr=recipe.muon_rate), torch.optim.AdamW(others, lr=recipe.adamw_rate, weight_decay=0.0)]


def _is_trained(part: str, recipe: Recipe) -> bool:
    if recipe.trains == SYNTHESIS:
        return part == "g_s"
    return recipe.objective != VISUAL or part in ("g_a", "g_s")  # the prior stays that of the other head


class Training:
    """A run that can be saved, resumed and rolled back.

    All that is random depends on the seed, the step and the number of rollbacks alone.

    Args:
        config: The codec and the recipe.
        crops: What it sees.
        fabric: The devices and processes that share the work.
        weights: Of an earlier codec, to start from; of fewer channels or steps, if need be. Without them the codec
            starts as a transform.

    Raises:
        InputError: If the weights do not fit.
    """

    def __init__(
        self, config: Config, crops: Crops, fabric: Fabric | None = None, weights: dict[str, Tensor] | None = None
    ) -> None:
        self.fabric = fabric or Fabric(accelerator="cpu")
        self.config, self.recipe, self.crops = config, config.recipe, crops
        torch.manual_seed(self.recipe.seed)
        self.codec = Codec(config.architecture)
        if weights is None:
            start_as_transform(self.codec, crops.first(START_CROPS))
        else:
            growth_crops = partial(crops.first, GROWTH_CROPS)
            self.codec.load_state_dict(grown(weights, config.architecture, growth_crops))
        for name, part in self.codec.named_children():
            part.requires_grad_(_is_trained(name, self.recipe))
        bare = optimisers(self.codec, self.recipe)
        objective = Objective(self.codec, visual_error if self.recipe.objective == VISUAL else mse)
        self.objective, *self.optimisers = self.fabric.setup(objective, *bare)
        self.average = copy.deepcopy(self.codec)
        self.peaks = [[group["lr"] for group in o.param_groups] for o in bare]
        self.step = self.rollbacks = 0
        self.seconds = 0.0

    @property
    def progress(self) -> float:
        """How much of the run is over, by steps or by the clock, 0 to 1."""
        return min(1.0, max(self.step / self.recipe.steps, _by_time(self.recipe, self.seconds)))

    def advance(self, x: Tensor, level: Tensor, size_px: Tensor | None = None) -> Tensor:
        """One step on a batch, as `Crops` gives it; returns loss, mean bpp and mean mse (3,), on the device."""
        self.codec.train()
        set_exact(self.codec, exact=self.step >= self.recipe.dyadic_from)
        torch.manual_seed(hash((self.recipe.seed, self.step, self.rollbacks, self.fabric.global_rank)) & (2**63 - 1))
        figures = self.objective(x, level, size_px)
        self.fabric.backward(figures[0])
        nn.utils.clip_grad_norm_(self.codec.parameters(), self.recipe.clip)
        factor = rate_factor(self.step, self.recipe, self.seconds) * SLOWER**self.rollbacks
        for optimiser, peaks in zip(self.optimisers, self.peaks, strict=True):
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self._update_average()
        return figures.detach()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for averaged, current in zip(self.average.parameters(), self.codec.parameters(), strict=True):
            averaged.lerp_(current, 1 - decay)

    def is_sound(self) -> bool:
        """Whether all weights are finite."""
        return bool(torch.stack([p.detach().sum() for p in self.codec.parameters()]).isfinite().all())

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs; a copy."""
        return copy.deepcopy(
            {
                "step": self.step,
                "seconds": self.seconds,
                "rollbacks": self.rollbacks,
                "codec": self.codec.state_dict(),
                "average": self.average.state_dict(),
                "optimisers": [o.state_dict() for o in self.optimisers],
            }
        )

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.step, self.seconds, self.rollbacks = state["step"], state["seconds"], state["rollbacks"]
        self.codec.load_state_dict(state["codec"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(copy.deepcopy(saved))

    def roll_back(self, good: dict[str, Any]) -> None:
        """Continue from an earlier state at half the learning rate, with other crops and other noise.

        Raises:
            DivergedError: If that was done too often.
        """
        rollbacks = self.rollbacks + 1
        if rollbacks > MOST_ROLLBACKS:
            raise DivergedError(
                f"step {self.step}: the loss is not finite even at {SLOWER**self.rollbacks:g} of the learning rate; "
                "lower muon_rate and adamw_rate, and look at the pictures"
            )
        self.load(good)
        self.rollbacks = rollbacks


@dataclass(frozen=True)
class Row:
    """Means over the steps since the last row, and how much of the run is over, 0 to 1."""

    step: int
    progress: float
    loss: float
    bpp: float
    mse: float
    rollbacks: int


def run(
    training: Training,
    *,
    report: Callable[[Row], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    every: int = REPORTED_EVERY,
) -> None:
    """Train until the recipe's last step, or until `stopped`.

    Args:
        training: The run; it is advanced.
        report: Called after every `every` steps, and at the end.
        stopped: Asked after each step.
        every: Steps between reports, the same in all processes. A state that is not finite is found there, and undone.
    """
    ended = partial(_ended, training, stopped)
    good = training.state()
    while not ended():
        training.crops.salt = training.rollbacks
        for row in _rows(training, ended, every):
            if not (math.isfinite(row.loss) and training.is_sound()):
                training.roll_back(good)
                break
            good = training.state()
            if report is not None:
                report(row)


def _ended(training: Training, stopped: Callable[[], bool]) -> bool:
    """Whether the last step is done, or a stop was asked for; all processes agree, though they hear of it apart."""
    fabric = training.fabric
    if training.progress >= 1:
        return True
    if fabric.world_size == 1:
        return stopped()
    return bool(fabric.all_reduce(torch.tensor(float(stopped()), device=fabric.device), reduce_op="sum"))


def _agreed(training: Training, seconds: float) -> float:
    """The time taken, for all processes alike where learning rates follow it, and the end of the run."""
    fabric = training.fabric
    if fabric.world_size == 1 or not training.recipe.minutes:
        return seconds
    mean = fabric.all_reduce(torch.tensor(seconds, dtype=torch.float64, device=fabric.device), reduce_op="mean")
    assert isinstance(mean, Tensor)
    return mean.item()


def _rows(training: Training, ended: Callable[[], bool], every: int) -> Iterator[Row]:
    """Train; gives the means of every `every` steps, and of what is left when it has ended."""
    fabric, first = training.fabric, training.step
    sums, then = torch.zeros(3, device=fabric.device), time.monotonic()
    for batch in training.crops.batches(first, training.recipe.steps, fabric.global_rank, fabric.world_size):
        sums += training.advance(*batch)
        now = time.monotonic()
        training.seconds, then = _agreed(training, training.seconds + now - then), now
        last = ended()
        if training.step % every and not last:
            continue
        means = fabric.all_reduce(sums, reduce_op="mean")
        assert isinstance(means, Tensor)
        loss, bpp, mse = (means / (training.step - first)).tolist()
        reported = time.monotonic()
        yield Row(training.step, training.progress, loss, bpp, mse, training.rollbacks)
        if last:
            return
        first = training.step
        sums.zero_()
        then += time.monotonic() - reported  # that time is no training; a wait for the device just before it is
