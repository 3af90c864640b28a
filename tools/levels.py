"""Do size and PSNR rise over all levels, and is no level wasteful? `python tools/levels.py PICTURES...`.

Prints, for each picture, the worst step back in size and in PSNR from one level to the next, and the level that lies
highest over the convex hull of size over squared error of the picture's own points, in percent of the size there.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from calotype import library
from calotype.codec import DEFAULT_EFFORT, runtime_of
from calotype.encoder import PictureCoder
from calotype.errors import CalotypeError
from calotype.learn.data import find_pictures
from calotype.manifest import LEVELS
from calotype.pixels import EXACT_DB, from_image

STEPS = range(1, 65)
MOST_SHRINKING, MOST_LOSS_DB, MOST_OVER_HULL = 0.002, 0.01, 0.02


def sweep(path: Path, step: int) -> list[tuple[int, float, float]]:
    """(level, bytes, PSNR in dB) of a picture."""
    picture = from_image(Image.open(path).convert("RGB"), strip=True)
    coder = PictureCoder.of(picture, runtime_of(library.find(None)), DEFAULT_EFFORT)
    files = [(level, coder.at_level(level)) for level in range(0, LEVELS, step)]
    return [(level, float(len(data)), min(coder.psnr_db(data), EXACT_DB)) for level, data in files]


def over_hull(size: np.ndarray, mse: np.ndarray) -> np.ndarray:
    """How far each size lies over the lower convex hull of size over squared error, as a share of the hull."""
    hull = list[int]()
    for i in np.lexsort((size, mse)):
        if hull and mse[i] == mse[hull[-1]]:
            continue
        while len(hull) >= 2:
            a, b = hull[-2:]
            if (size[b] - size[a]) * (mse[i] - mse[a]) < (size[i] - size[a]) * (mse[b] - mse[a]):
                break
            hull.pop()
        hull.append(int(i))
    return size / np.interp(mse, mse[hull], size[hull]) - 1


def main() -> None:
    """Read the command line, code every picture at every level, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", help="folders, patterns and pictures")
    parser.add_argument("--step", type=int, choices=STEPS, metavar="1..64", default=1, help="between levels (1)")
    parser.add_argument("--processes", type=int, default=2, help="pictures at a time (%(default)s)")
    args = parser.parse_args()
    paths, failed = find_pictures(args.pictures), 0
    with ProcessPoolExecutor(args.processes) as pool:
        for path, rows in zip(paths, pool.map(partial(sweep, step=args.step), paths), strict=True):
            level, size, psnr_db = np.array(rows).T
            shrinking, loss_db = -np.diff(size) / size[:-1], -np.diff(psnr_db)
            over = over_hull(size, 10 ** (-psnr_db / 10))
            good = shrinking.max() <= MOST_SHRINKING and loss_db.max() <= MOST_LOSS_DB and over.max() <= MOST_OVER_HULL
            failed += not good
            print(
                f"{path.name}: size falls by {max(0, shrinking.max()):.2%} after {level[shrinking.argmax()]:.0f}, "
                f"PSNR by {max(0, loss_db.max()):.3f} dB after {level[loss_db.argmax()]:.0f}; "
                f"{over.max():.2%} over the hull at {level[over.argmax()]:.0f}: {'good' if good else 'BAD'}",
                flush=True,
            )
    print(f"{len(paths) - failed} of {len(paths)} pictures are good")


if __name__ == "__main__":
    try:
        main()
    except CalotypeError as error:
        sys.exit(f"levels.py: {error}")
