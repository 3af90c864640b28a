"""Weights made of weights: the mean of runs, and a head `visual` moved onto a new model (docs/training.md).

python tools/mix.py mean RUN/checkpoint.pt RUN/checkpoint.pt --start photo --out mean.pt
python tools/mix.py head NEW.calomodel --of photo --validation PICTURES --out both.calomodel

A mean takes the moving averages of runs from one start, three parts of it to one part of the start. A moved head is the
new model's transforms plus what the head and the first head differed by in the old one: a start for `calotype train
--recipe visual`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from calotype import library
from calotype.errors import CalotypeError, InputError
from calotype.learn import checkpoint, config
from calotype.learn.config import VISUAL, Architecture
from calotype.learn.data import Pictures, find_pictures
from calotype.learn.export import add_visual_head
from calotype.learn.fit import weights_from
from calotype.learn.restore import codec_of
from calotype.learn.split import judges

Weights = dict[str, Tensor]
SHARE = 0.75


def mean(runs: list[Weights], start: Weights, share: float) -> Weights:
    """So large a share of the mean of runs, the rest of their start, which has what they have."""
    return {name: torch.lerp(v, torch.stack([run[name] for run in runs]).mean(0), share) for name, v in start.items()}


def moved(new: Weights, old_first: Weights, old_head: Weights) -> Weights:
    """The new weights, their transforms as far from them as the old head's are from the old first head's."""
    return {name: v + old_head[name] - old_first[name] for name, v in new.items()}


def shapes(weights: Weights) -> dict[str, torch.Size]:
    """What an architecture shows in."""
    return {name: v.shape for name, v in weights.items()}


def write_mean(args: argparse.Namespace) -> None:
    """Write the mean of runs."""
    start = weights_from(args.start, Architecture())
    runs = [checkpoint.load_weights(path) for path in args.runs]
    for path, run in zip(args.runs, runs, strict=True):
        if shapes(run) != shapes(start):
            raise InputError(
                f"{path}: of another architecture than {args.start}: only runs that did not grow have means"
            )
    checkpoint.save(mean(runs, start, args.share), args.out)


def write_head(args: argparse.Namespace) -> None:
    """Write a model with the head of another."""
    new, old = library.find(args.model), library.find(args.of)
    old.manifest.head_named(VISUAL)
    first, old_first, old_head = (codec_of(*which).state_dict() for which in ((new,), (old,), (old, VISUAL)))
    if shapes(first) != shapes(old_first):
        raise InputError(f"{args.model} has another architecture than {args.of}: a head cannot be moved")
    weights = moved(first, old_first, old_head)
    pictures = judges(Pictures(find_pictures(args.validation), 64))
    made = {"schedule": f"moved from {old.name} {old.version}"}
    add_visual_head(new, config.read(VISUAL).recipe, weights, made, args.out, pictures)


def main() -> None:
    """Read the command line, mix, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    of_runs = commands.add_parser("mean", help="of the moving averages of runs")
    of_runs.add_argument("runs", nargs="+", type=Path, help="their checkpoints, or weights")
    of_runs.add_argument("--start", required=True, help="what they began with: a model, or weights (.pt)")
    of_runs.add_argument("--share", type=float, default=SHARE, help="of the mean (%(default)s)")
    of_head = commands.add_parser("head", help=f"a head {VISUAL} onto a new model")
    of_head.add_argument("model", help="the new one")
    of_head.add_argument("--of", required=True, help="the model that has the head")
    of_head.add_argument("--validation", nargs="+", required=True, help="pictures for the card's curve")
    for command, work in ((of_runs, write_mean), (of_head, write_head)):
        command.add_argument("--out", type=Path, required=True)
        command.set_defaults(work=work)
    args = parser.parse_args()
    args.work(args)


if __name__ == "__main__":
    try:
        main()
    except CalotypeError as error:
        sys.exit(f"mix.py: {error}")
