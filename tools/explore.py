"""Train small variants for equal processor times: `python tools/explore.py PICTURES --validation OTHERS`.

Each variant changes one thing of the first. Rates are estimated, and there is one seed each: differences of a percent
or two mean little.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from calotype.bench.bd_rate import Curve, bd_rate
from calotype.errors import CalotypeError
from calotype.learn.config import Architecture, Config, Recipe
from calotype.learn.data import Crops, Pictures, find_pictures
from calotype.learn.model import Codec
from calotype.learn.train import Training
from calotype.learn.watch import Point, as_unit, curve

BASE = Config(Architecture(), Recipe(steps=1500, warmup=100, ema=0.99))
ARCHITECTURES = {
    "two context steps": {"context_steps": 2},
    "one block a context step": {"context_blocks": 1},
    "prior 128 wide": {"prior_width": 128},
    "transforms 96 wide": {"width": 96},
    "transforms 160 wide": {"width": 160},
    "two blocks a side": {"blocks": 2},
    "six blocks a side": {"blocks": 6},
    "y of 320 channels": {"y_channels": 320},
    "z of 48 channels": {"z_channels": 48},
}
RECIPES = {
    "Muon at 2.5e-3": {"muon_rate": 2.5e-3},
    "Muon at 1e-2": {"muon_rate": 1e-2},
    "crops of 256, batch 4": {"crop_px": 256, "batch": 4},
    "8 crops of 128": {"batch": 8},
    "dyadic from step 100 on": {"dyadic_from": 100},
    "transforms at a tenth of the rate": {"transform_share": 0.1},
}
AT_RANDOM = "not started as a transform codec"


def variants() -> dict[str, Config]:
    """What is tried, by name; the first is what the others are compared with."""
    sized = {name: replace(BASE, architecture=replace(BASE.architecture, **v)) for name, v in ARCHITECTURES.items()}
    trained = {name: replace(BASE, recipe=replace(BASE.recipe, **v)) for name, v in RECIPES.items()}
    return {"baseline": BASE, **sized, **trained, AT_RANDOM: BASE}


@dataclass(frozen=True)
class Outcome:
    """What a variant came to."""

    name: str
    steps: int
    points: list[Point]


def try_out(item: tuple[str, Config], pictures: list[Path], held_out: list[Path], minutes: float) -> Outcome:
    """Train a variant for some minutes on one thread; the learning rate falls with the time that is left."""
    torch.set_num_threads(1)
    name, plan = item
    crops = Crops(Pictures(pictures, plan.recipe.crop_px), None, plan.recipe)
    training = Training(plan, crops, weights=Codec(plan.architecture).state_dict() if name == AT_RANDOM else None)
    start = time.process_time()
    for x, level in crops.batches(0, 10**9, workers=0):
        spent = (time.process_time() - start) / (60 * minutes)
        if spent >= 1:
            break
        training.recipe = replace(plan.recipe, steps=max(training.step + 1, round(training.step / max(spent, 1e-3))))
        training.advance(x, level)
    return Outcome(name, training.step, curve(training.average, as_unit(list(Pictures(held_out, 64)), 256))[0])


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
