"""How soon does one image come out of an archive? `python tools/archive_access.py MODEL IMAGES [--quality 60]`.

Packs up to 2,000 images with the model inside, opens the archive where no model is installed, and takes 500 images out
in random order: the time of the first one, with opening the archive and checking the model, and of each one after it.
Times are of the processor, so that other programs on the machine do not enter.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import process_time

import numpy as np

import calotype
from calotype import datasets, library
from calotype.archive import Archive, ArchiveWriter
from calotype.bitsback.model import LatentBundle
from calotype.bundle import Bundle, ModelFile
from calotype.codec import level_of
from calotype.small import chunk_images, small_model

IMAGES, TAKEN = 2000, 500


def packed(path: Path, model: ModelFile, images: np.ndarray, quality: float) -> Path:
    """An archive of the images, with the model."""
    with ArchiveWriter(path) as archive:
        archive.add_model(model)
        if isinstance(model, Bundle):
            for number, image in enumerate(images):
                archive.add_picture(f"{number:06d}", calotype.encode(image, quality=quality, model=model))
            return path
        small = small_model(model)
        size = chunk_images(small)
        for start in range(0, len(images), size):
            archive.add_images(small, images[start : start + size], (), level_of(quality))
    return path


def seconds(work: Callable[[], object]) -> float:
    """Of the processor, all threads together."""
    start = process_time()
    work()
    return process_time() - start


def main() -> None:
    """Read the command line, pack, take out, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or path")
    parser.add_argument("images", help=f"{', '.join(datasets.NAMES)}, or a folder of pictures")
    parser.add_argument("--resize", type=int, help="sides to resize a folder's pictures to")
    parser.add_argument("--quality", type=float, default=60)
    args = parser.parse_args()
    model = library.find_any(args.model)
    images = datasets.load_test(args.images, size_px=args.resize).images[:IMAGES]
    os.environ["CALOTYPE_MODELS"] = os.devnull
    with tempfile.TemporaryDirectory() as folder:
        path = packed(Path(folder) / "x.caloset", model, images, args.quality)
        kind = "bits back" if isinstance(model, LatentBundle) else "with loss"
        print(f"{len(images)} images, {path.stat().st_size:,} bytes, {kind}, model {model.name} inside")
        archive = Archive(path)
        first = seconds(lambda: archive[0])
        order = np.random.default_rng(0).choice(len(images), TAKEN).tolist()
        times_ms = sorted(1000 * seconds(partial(archive.__getitem__, number)) for number in order)
        archive.close()
    print(
        f"first {1000 * first:.0f} ms; then of {TAKEN}: median {statistics.median(times_ms):.2f} ms, "
        f"95% under {times_ms[TAKEN * 95 // 100]:.1f} ms, slowest {times_ms[-1]:.1f} ms"
    )


if __name__ == "__main__":
    main()
