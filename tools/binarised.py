"""Bits back on binarised MNIST, as BB-ANS measures it: train, pack the test images, unpack them again.

    python tools/binarised.py --minutes 15 --out binarised

Each pixel is drawn once, 255 with a probability of its value over 255, else 0. The model is of that paper's size:
100 hidden units, 40 latents.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calotype import datasets, library
from calotype.archive import Archive, ArchiveWriter
from calotype.datasets import Split
from calotype.learn.bitsback import fit
from calotype.learn.bitsback.nets import Architecture
from calotype.small import small_model

SEED = 0


def binarised(split: Split, rng: np.random.Generator) -> Split:
    """A draw of every pixel: 0 or 255."""
    drawn: NDArray[np.uint8] = (rng.random(split.images.shape) * 255 < split.images).astype(np.uint8) * 255
    return Split(drawn, split.labels)


def main() -> None:
    """Train, pack, unpack, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with MNIST's IDX files; downloaded if not given")
    parser.add_argument("--minutes", type=float, default=15.0, help="time to train")
    parser.add_argument("--out", type=Path, default=Path("binarised"), help="folder to write into")
    given = parser.parse_args()
    rng = np.random.default_rng(SEED)
    mnist = datasets.load("mnist", given.data)
    drawn = replace(mnist, **{part: binarised(getattr(mnist, part), rng) for part in ("train", "validation", "test")})
    plan = fit.plan_of("lossless-vae", None, drawn, "binarised", {"minutes": given.minutes})
    plan = replace(plan, architecture=Architecture(latents=(40,), width=100))
    model_path = given.out / "binarised.calomodel"
    fit.fit(plan, drawn, given.out, model_path, lambda row, _: print(row))
    model = small_model(library.open_path(model_path))
    packed, images = given.out / "binarised.caloset", drawn.test.images
    packed.unlink(missing_ok=True)
    with ArchiveWriter(packed) as archive:
        archive.add_images(model, images)  # one chain of all, as in the paper; `calotype pack` begins anew every 1,000
    with Archive(packed, model.bundle) as archive:
        assert np.array_equal(archive.arrays(), images), "the archive does not unpack to what was packed"
    size = packed.stat().st_size
    print(f"{size} bytes, {8 * size / images.size:.4f} bits per dimension, unpacked to the same")


if __name__ == "__main__":
    main()
