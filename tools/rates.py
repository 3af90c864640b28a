"""BD-rates of a model in minutes: `python tools/rates.py PICTURES --reference CURVES`, and `... PICTURES --visual`.

Real files at the qualities of `calotype bench`, and its BD-rates: by PSNR alone, of some efforts against published
curves of the same pictures and against each other; or of the head visual against AVIF as Pillow writes it, by PSNR,
MS-SSIM and SSIMULACRA2. Needs calotype[bench].
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import calotype
from calotype.bench import metrics
from calotype.bench.bd_rate import Curve, bd_rate
from calotype.bench.codecs import AVIF, CALOTYPE, CALOTYPE_VISUAL
from calotype.bench.measure import Job, measure, read_rgb
from calotype.bench.results import read_published
from calotype.bench.run import find_pictures
from calotype.bench.summary import PUBLISHED_ANCHORS
from calotype.errors import CalotypeError

Figures = tuple[float, ...]
"""Bits a pixel, and what it reaches in each measure."""
SEEN = "psnr_db", "ms_ssim_db", "ssimulacra2"


def by_psnr(model: str | None, effort: int, path: Path, quality: float) -> Figures:
    """A picture at an effort."""
    image = read_rgb(path)
    data = calotype.encode(image, quality=quality, effort=effort, model=model)
    shown = calotype.decode(data, model=model)
    return 8 * len(data) / (image.width * image.height), metrics.psnr_db(np.asarray(image), np.asarray(shown))


def as_seen(codec: str, path: Path, quality: float) -> Figures:
    """A picture by a codec of the benchmark."""
    point = measure(Job(path, codec, quality))
    return point.bpp, *(getattr(point, name) for name in SEEN)


def curves(
    name: str, work: Callable[[Path, float], Figures], paths: Sequence[Path], qualities: Sequence[float], processes: int
) -> list[Curve]:
    """A curve for each measure: at each quality the means over the pictures."""
    jobs = [(path, quality) for quality in qualities for path in paths]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        figures = np.array(list(pool.map(work, *zip(*jobs, strict=True))))
    bpp, *values = figures.reshape(len(qualities), len(paths), -1).mean(1).T.tolist()
    return [Curve(name, tuple(bpp), tuple(value)) for value in values]


def main() -> None:
    """Read the command line, code, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path, help="pictures, and folders of pictures")
    parser.add_argument("--reference", type=Path, help="folder of published curves of these very pictures")
    parser.add_argument("--efforts", type=int, nargs="+", default=[1, 2, 3, 4], help="(1 2 3 4)")
    parser.add_argument("--model", help="its name, or FILE.calomodel; the shipped one if not given")
    parser.add_argument("--visual", action="store_true", help="the head visual of the shipped model, against AVIF")
    parser.add_argument("--processes", type=int, default=2, help="pictures at a time (%(default)s)")
    args = parser.parse_args()
    paths = find_pictures(args.pictures)
    if args.visual:
        ours, theirs = (
            curves(codec.name, partial(as_seen, codec.name), paths, codec.qualities, args.processes)
            for codec in (CALOTYPE_VISUAL, AVIF)
        )
        print(
            "visual against AVIF:", *(f"{n} {bd_rate(b, a):+.2f}%" for n, a, b in zip(SEEN, ours, theirs, strict=True))
        )
        return
    published = read_published(args.reference) if args.reference else ()
    anchors = [p.curve for p in published if p.name in PUBLISHED_ANCHORS]
    for effort in args.efforts:
        work = partial(by_psnr, args.model, effort)
        curve = curves(f"effort {effort}", work, paths, CALOTYPE.qualities, args.processes)[0]
        print(curve.name, *(f"{a.name} {bd_rate(a, curve):+.2f}%" for a in anchors), sep="  ", flush=True)
        anchors.append(curve)


if __name__ == "__main__":
    try:
        main()
    except CalotypeError as error:
        sys.exit(f"rates.py: {error}")
