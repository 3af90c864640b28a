"""Train small variants for equal processor times: `python tools/explore.py PICTURES --validation OTHERS`.

Each variant changes one thing of the first. Rates are estimated, and there is one seed each: differences of a percent
or two mean little.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn
from torch.nn.functional import silu

from calotype.bench.bd_rate import Curve, bd_rate
from calotype.errors import CalotypeError
from calotype.learn.config import Architecture, Config, Recipe
from calotype.learn.data import Crops, Pictures, find_pictures
from calotype.learn.model import Codec
from calotype.learn.train import Objective, Training, mse, optimisers
from calotype.learn.transforms import Block, Linear1x1
from calotype.learn.watch import Point, as_unit, curve

BASE = Config(Architecture(), Recipe(batch=4, warmup=30, ema=0.99))
ARCHITECTURES = {
    "two context steps": {"context_steps": 2},
    "one block a context step": {"context_blocks": 1},
    "prior 128 wide": {"prior_width": 128},
    "transforms 96 wide": {"width": 96},
    "transforms 160 wide": {"width": 160},
    "two blocks a side": {"blocks": 2},
    "six blocks a side": {"blocks": 6},
    "no layers at full size": {"detail": 0},
    "y of 320 channels": {"y_channels": 320},
    "z of 48 channels": {"z_channels": 48},
    "3 knots of the gains": {"knots": 3},
    "17 knots of the gains": {"knots": 17},
}
RECIPES = {
    "Muon at 2.5e-3": {"muon_rate": 2.5e-3},
    "Muon at 1e-2": {"muon_rate": 1e-2},
    "transforms at a tenth of the rate": {"transform_share": 0.1, "shortcut_share": 0.1},
    "shortcuts at a tenth of the rate": {"shortcut_share": 0.1},
    "a crop of 256": {"crop_px": 256, "batch": 1},
    "16 crops of 64": {"crop_px": 64, "batch": 16},
    "8 crops of 128": {"batch": 8},
    "dyadic from step 100 on": {"dyadic_from": 100},
}
LUMA = torch.tensor([0.299, 0.587, 0.114])
ADAMW_RATE = 2e-3


class Depthwise5x5(Block):
    """A block that looks twice as far around."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.b = nn.Conv2d(width, width, 5, padding=2, groups=width)


class ChunkAdd(Block):
    """A block whose feed-forward half is twice as wide before two parts of it are added (DCVC-RT)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.d = Linear1x1(width, 4 * width)

    def _widened(self, x: Tensor) -> Tensor:
        rectified, added = self._scaled("d", x).chunk(2, 1)
        return silu(rectified) + added


class Plainly(nn.Module):
    """Symbols by rounding, or noise in their place."""

    def __init__(self, *, noise: bool) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, residual: Tensor, index: Tensor) -> Tensor:  # noqa: ARG002
        if self.noise and self.training:
            return residual + torch.rand_like(residual) - 0.5
        return residual + (residual.round() - residual).detach()


def unchanged(_: Training) -> None:
    """Nothing."""


def with_blocks(kind: Callable[[int], Block], training: Training) -> None:
    """Other blocks in analysis and synthesis."""
    for net in (training.codec.g_a, training.codec.g_s):
        net.blocks = nn.ModuleList(kind(training.codec.arch.width) for _ in net.blocks)


def without_shortcuts(training: Training) -> None:
    """No linear way past the blocks."""
    for net in (training.codec.g_a, training.codec.g_s):
        net.shortcut.requires_grad_(requires_grad=False)
        nn.init.zeros_(net.shortcut.weight)


def with_symbols(training: Training, *, noise: bool) -> None:
    """Symbols that are not chosen by their rate."""
    training.codec.symbols = Plainly(noise=noise)  # type: ignore[assignment]


def with_rate_of_symbols(training: Training) -> None:
    """The rate of rounded values in place of noisy ones."""
    training.codec._seen = lambda _, v_hat: v_hat


def with_luma(training: Training) -> None:
    """Half of the error is that of brightness."""

    def error(x: Tensor, x_hat: Tensor) -> Tensor:
        brightness = torch.einsum("bchw,c->bhw", x_hat - x, LUMA)
        return (mse(x, x_hat) + brightness.square().mean((1, 2))) / 2

    training.objective = Objective(training.codec, error)  # type: ignore[assignment]


def with_adamw(training: Training) -> None:
    """One optimiser for all weights."""
    training.optimisers = [torch.optim.AdamW(_trained(training), lr=ADAMW_RATE, weight_decay=0.0)]


def with_schedule_free(training: Training) -> None:
    """AdamW with an average of its own, for a rate that stays (Defazio et al., The Road Less Scheduled, 2024)."""
    optimiser = AdamWScheduleFree(_trained(training), lr=ADAMW_RATE, weight_decay=0.0)
    optimiser.train()
    training.optimisers = [optimiser]


def _trained(training: Training) -> list[nn.Parameter]:
    return [p for p in training.codec.parameters() if p.requires_grad]


def at_random(training: Training) -> None:
    """Weights that nothing was put into."""
    training.codec.load_state_dict(Codec(training.codec.arch).state_dict())


CHANGES: dict[str, Callable[[Training], None]] = {
    "not started as a transform codec": at_random,
    "no shortcuts": without_shortcuts,
    "depthwise 5x5": partial(with_blocks, Depthwise5x5),
    "chunk-add, 4x feed-forward": partial(with_blocks, ChunkAdd),
    "rounding, not choosing by rate": partial(with_symbols, noise=False),
    "noise for the synthesis, too": partial(with_symbols, noise=True),
    "rate of symbols, not of noise": with_rate_of_symbols,
    "half of the error that of luma": with_luma,
}
OPTIMISERS: dict[str, Callable[[Training], None]] = {f"AdamW alone, at {ADAMW_RATE:g}": with_adamw}
STAYING: dict[str, Callable[[Training], None]] = {
    "a rate that does not fall": unchanged,
    f"AdamW, schedule-free, at {ADAMW_RATE:g}": with_schedule_free,
}


@dataclass(frozen=True)
class Variant:
    """What is tried.

    Attributes:
        config: Sizes and recipe.
        change: What is changed besides, before the optimisers are made.
        optimise: Changes the optimisers.
        falls: Whether the learning rate falls; the average of the weights is judged either way.
    """

    config: Config = field(default_factory=lambda: BASE)
    change: Callable[[Training], None] = unchanged
    optimise: Callable[[Training], None] = unchanged
    falls: bool = True

    def training(self, crops: Crops) -> Training:
        """A run of it that has not begun."""
        training = Training(self.config, crops)
        self.change(training)
        training.optimisers = optimisers(training.codec, training.recipe)  # type: ignore[assignment]
        self.optimise(training)
        training.peaks = [[group["lr"] for group in o.param_groups] for o in training.optimisers]
        training.average = copy.deepcopy(training.codec)
        return training


def variants() -> dict[str, Variant]:
    """What is tried, by name; the first is what the others are compared with."""
    sized = {name: Variant(replace(BASE, architecture=Architecture(**v))) for name, v in ARCHITECTURES.items()}
    trained = {name: Variant(replace(BASE, recipe=replace(BASE.recipe, **v))) for name, v in RECIPES.items()}
    changed = {name: Variant(change=change) for name, change in CHANGES.items()}
    optimised = {name: Variant(optimise=change) for name, change in OPTIMISERS.items()}
    stays = {name: Variant(optimise=change, falls=False) for name, change in STAYING.items()}
    return {"baseline": Variant(), **sized, **trained, **changed, **optimised, **stays}


@dataclass(frozen=True)
class Outcome:
    """What a variant came to."""

    name: str
    steps: int
    points: list[Point]


def try_out(item: tuple[str, Variant], pictures: list[Path], held_out: list[Path], minutes: float) -> Outcome:
    """Train a variant for some minutes on one thread; the learning rate falls with the time that is left."""
    torch.set_num_threads(1)
    name, variant = item
    recipe = variant.config.recipe
    crops = Crops(Pictures(pictures, recipe.crop_px), None, recipe)
    training = variant.training(crops)
    start = time.process_time()
    for batch in crops.batches(0, 10**9, workers=0):
        spent = (time.process_time() - start) / (60 * minutes)
        if spent >= 1:
            break
        steps = max(training.step + 1, round(training.step / max(spent, 1e-3))) if variant.falls else 10**9
        training.recipe = replace(recipe, steps=steps)
        training.advance(*batch)
    return Outcome(name, training.step, curve(averaged(training), as_unit(list(Pictures(held_out, 64)), 256))[0])


def averaged(training: Training) -> Codec:
    """The codec with averages of its weights: the optimiser's own, if it keeps any."""
    for optimiser in training.optimisers:
        if isinstance(optimiser, AdamWScheduleFree):
            optimiser.eval()
            return training.codec
    return training.average


def rate_against(points: list[Point], anchor: list[Point]) -> str:
    """BD-rate of estimated bits, in percent, or why there is none."""
    try:
        named = {"baseline": anchor, "variant": points}.items()
        curves = (Curve(name, tuple(p.bpp for p in c), tuple(p.psnr_db for p in c)) for name, c in named)
        return f"{bd_rate(*curves):+.1f}%"
    except ValueError as error:  # a variant may have learned too little, or diverged
        return f"none: {error}"


def main() -> None:
    """Read the command line, train all variants, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", help="folders, patterns and pictures to learn from")
    parser.add_argument("--validation", nargs="+", required=True, help="pictures to judge by")
    parser.add_argument("--minutes", type=float, default=4, help="training time of each variant (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="variants at a time, a thread each (%(default)s)")
    args = parser.parse_args()
    work = partial(
        try_out,
        pictures=find_pictures(args.pictures),
        held_out=find_pictures(args.validation),
        minutes=args.minutes,
    )
    print("| change | BD-rate | steps |\n|---|---|---|")
    anchor: list[Point] | None = None
    with ProcessPoolExecutor(args.processes) as pool:
        for outcome in pool.map(work, variants().items()):
            anchor = anchor or outcome.points
            print(f"| {outcome.name} | {rate_against(outcome.points, anchor)} | {outcome.steps} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except CalotypeError as error:
        sys.exit(f"explore.py: {error}")
