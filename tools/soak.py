"""Does memory stay flat? Encodes and decodes many pictures in one process: `python tools/soak.py FOLDER`.

Crops of varying size, place and mode; learned and lossless by turns; every fifth file is damaged and decoded once more,
for an error must not keep memory either. Prints resident memory as it goes and, at the end, its slope in bytes a
picture after the first thousand.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image
from psutil import Process

import calotype
from calotype.cli.pictures import is_picture
from calotype.errors import CalotypeError

SETTLING = 1000
"""Pictures before the slope is taken: sessions start, allocators find their size."""
MOST_BYTES_A_PICTURE = 1024
EVERY = 100
MODES = ("RGB", "RGB", "L", "RGBA", "LA")
SIDES_PX = (64, 200)


def slope(rows: list[tuple[int, int]]) -> float:
    """Bytes a picture that memory grows, by least squares over (pictures, bytes)."""
    count, held = np.array(rows, np.float64).T
    return float(np.polyfit(count, held, 1)[0])


def crop(pictures: list[Image.Image], rng: np.random.Generator) -> Image.Image:
    """A part of a picture, in some mode."""
    picture = pictures[rng.integers(len(pictures))]
    width, height = map(int, rng.integers(*SIDES_PX, 2, endpoint=True))
    left, top = int(rng.integers(picture.width - width + 1)), int(rng.integers(picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height)).convert(rng.choice(MODES))


def once(picture: Image.Image, number: int, rng: np.random.Generator) -> None:
    """Encode and decode one picture, and now and then a damaged file."""
    lossless = number % 2 == 1
    quality = None if lossless else int(rng.integers(101))
    data = calotype.encode(picture, lossless=lossless, quality=quality, effort=int(rng.integers(1, 3)))
    decoded = calotype.decode(data)
    if decoded.size != picture.size or (lossless and decoded.tobytes() != picture.tobytes()):
        raise CalotypeError(f"picture {number} did not come back")
    if number % 10 in (4, 9):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            calotype.decode(bytes(damaged))
        except CalotypeError:
            return
        raise CalotypeError(f"picture {number} was damaged and decoded")


def main() -> None:
    """Read the command line, run, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="folder of pictures to take crops from")
    parser.add_argument("--count", type=int, default=20_000, help="pictures to encode and decode (%(default)s)")
    args = parser.parse_args()
    pictures = [Image.open(path).convert("RGB") for path in sorted(args.pictures.rglob("*")) if is_picture(path)]
    pictures = [picture for picture in pictures if min(picture.size) >= SIDES_PX[1]]
    process = Process()
    rng, rows, start = np.random.default_rng(0), list[tuple[int, int]](), perf_counter()
    for number in range(1, args.count + 1):
        once(crop(pictures, rng), number, rng)
        if number % EVERY == 0:
            rows.append((number, process.memory_info().rss))
        if number % SETTLING == 0:
            print(f"{number} pictures  {rows[-1][1] / 1e6:.1f} MB  {perf_counter() - start:.0f} s", flush=True)
    grown = slope([row for row in rows if row[0] >= SETTLING])
    print(f"{grown:+.0f} bytes a picture after the first {SETTLING}")
    if grown >= MOST_BYTES_A_PICTURE:
        sys.exit(f"soak.py: memory grows by more than {MOST_BYTES_A_PICTURE} bytes a picture")


if __name__ == "__main__":
    main()
