"""Where does a head run away? `python tools/runaway.py PICTURES... --head visual`.

Codes crops as a head `visual` is trained on them, half of them with their channels in another order, at low levels, and
names those whose restored samples come to lie far beyond what pictures hold; with --out it keeps these crops as PNG, to
be trained on (docs/training.md). With --middle it codes the middle of each picture as it is, at each of these levels.
Needs calotype[learn].
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from calotype import library
from calotype.errors import CalotypeError
from calotype.learn.config import VISUAL, Recipe
from calotype.learn.data import Crops, Pictures, find_pictures
from calotype.learn.restore import codec_of
from calotype.learn.watch import as_unit

Batch = tuple[str, Tensor, Tensor]
BATCH, CROP_PX = 8, 256


def drawn(pictures: Pictures, count: int, levels: int, seed: int) -> Iterator[Batch]:
    """Crops x (8, 3, 256, 256) and their levels (8,), with a name."""
    crops = Crops(pictures, None, Recipe(batch=BATCH, crop_px=CROP_PX, seed=seed, objective=VISUAL))
    random = np.random.default_rng(seed)
    for step, (x, _, _) in enumerate(crops.batches(0, count // BATCH)):
        yield f"step-{step}", x, torch.from_numpy(random.integers(0, levels, BATCH))


def middles(pictures: Pictures, levels: int) -> Iterator[Batch]:
    """The middle of each picture, of at most 512 pixels, at all levels below `levels`, eight at a time."""
    for number, (path, picture) in enumerate(zip(pictures.paths, pictures, strict=True)):
        for level in torch.arange(levels).split(BATCH):
            yield f"{path.name}-{number}", as_unit([picture])[0].expand(len(level), -1, -1, -1), level


def main() -> None:
    """Read the command line, code, say where it runs away."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", help="folders, patterns and pictures")
    parser.add_argument("--model", help="its name, or FILE.calomodel; the shipped one if not given")
    parser.add_argument("--head", default=VISUAL, help="%(default)s if not given")
    parser.add_argument("--crops", type=int, default=2400, help="to draw (%(default)s)")
    parser.add_argument("--levels", type=int, default=72, metavar="N", help="those below N (%(default)s)")
    parser.add_argument("--limit", type=float, default=0.95, help="samples of pictures lie within 0.5 (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--middle", action="store_true", help="the middle of each picture, of 512 pixels, instead of crops"
    )
    parser.add_argument("--out", type=Path, help="folder for the crops that were found")
    args = parser.parse_args()
    model = library.find(args.model)
    model.manifest.head_named(args.head)
    codec = codec_of(model, args.head)
    pictures = Pictures(find_pictures(args.pictures), 64 if args.middle else CROP_PX)
    batches = middles(pictures, args.levels) if args.middle else drawn(pictures, args.crops, args.levels, args.seed)
    coded = found = 0
    for name, x, level in batches:
        with torch.no_grad():
            size = codec(x, level).x_hat.abs().amax((1, 2, 3))
        coded += len(x)
        for i in torch.nonzero(size > args.limit).flatten().tolist():
            found += 1
            print(f"{name}, {i}: up to {size[i]:.2f} at level {level[i]}", flush=True)
            if args.out is not None:
                args.out.mkdir(parents=True, exist_ok=True)
                samples = ((x[i] + 0.5) * 255).round().byte().permute(1, 2, 0).numpy()
                Image.fromarray(samples).save(args.out / f"{name}-{i}-level-{level[i]}.png")
    print(f"{found} of {coded} lie beyond {args.limit}")


if __name__ == "__main__":
    try:
        main()
    except CalotypeError as error:
        sys.exit(f"runaway.py: {error}")
