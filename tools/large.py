"""Memory and time that large pictures take: `python tools/large.py [--megapixels 10 100] [--folder DIR]`.

Each step is the command line in a process of its own, timed from its start to its end, on a square picture made of
mirrored photographs: encoding a PPM file, decoding to another, and a region of 512x512 pixels around the corner of four
tiles, the most that it can need. The region is timed inside its process as well, once the model is loaded.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calotype.encoder import TILE_PX

COMMAND = [sys.executable, "-c", "from calotype.cli import main; main()"]
REGION = """
import mmap, sys
import calotype
from calotype.bench.timing import timed
with open(sys.argv[1], "rb") as file:
    view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
region = tuple(map(int, sys.argv[2].split(",")))
print(timed(lambda: calotype.decode(view, region=region), 5)[1])
"""
REGION_PX = 512


@dataclass(frozen=True)
class Cost:
    """Wall time and peak resident memory of a process, and what it printed."""

    seconds: float
    peak_mb: float
    output: str

    def row(self, what: str, megapixels: float) -> str:
        """A line of the table."""
        return f"| {what} | {self.seconds:.1f} | {self.seconds / megapixels:.3f} | {self.peak_mb:,.0f} |"


def cost_of(command: list[str]) -> Cost:
    """Run a command.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, output)


def mosaic(side_px: int) -> NDArray[np.uint8]:
    """Photographs side by side, mirrored in turn, to a square."""
    from skimage import data

    photos = [data.astronaut(), data.coffee()[:256, :512].repeat(2, 0), data.cat()[:256, :448].repeat(2, 0)]
    row = np.concatenate(photos, axis=1)
    block = np.concatenate([row, row[::-1, ::-1]])
    return np.tile(block, (-(-side_px // len(block)), -(-side_px // block.shape[1]), 1))[:side_px, :side_px]


def write_mosaic(side_px: int, path: Path) -> None:
    """The same as a file."""
    Image.fromarray(mosaic(side_px)).save(path)


def measure(megapixels: float, folder: Path) -> None:
    """Print the rows of a picture of this size."""
    side_px = round((megapixels * 1e6) ** 0.5)
    source, coded, decoded = (folder / f"{megapixels:g}.{suffix}" for suffix in ("ppm", "calo", "out.ppm"))
    with ProcessPoolExecutor(1) as other:  # a process counts its parent's memory as its own peak
        other.submit(write_mosaic, side_px, source).result()
    name = f"{megapixels:g} MP"
    encoding = cost_of([*COMMAND, "encode", "--quiet", "--overwrite", str(source), str(coded)])
    print(encoding.row(f"encode {name}", megapixels), flush=True)
    decoding = cost_of([*COMMAND, "decode", "--quiet", "--overwrite", str(coded), str(decoded)])
    print(decoding.row(f"decode {name}", megapixels), flush=True)
    corner = max(0, side_px // 2 // TILE_PX * TILE_PX - REGION_PX // 2)
    region = f"{corner},{corner},{REGION_PX},{REGION_PX}"
    area = REGION_PX**2 / 1e6
    part = str(folder / "part.png")
    cold = cost_of([*COMMAND, "decode", "--quiet", "--overwrite", "--region", region, str(coded), part])
    print(cold.row(f"region of {name}, cold", area))
    warm = cost_of([sys.executable, "-c", REGION, str(coded), region])
    print(Cost(float(warm.output) / 1000, warm.peak_mb, "").row(f"region of {name}", area), flush=True)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[10, 100], help="sizes (%(default)s)")
    parser.add_argument("--folder", type=Path, help="for the files, which stay there (default: a temporary one)")
    args = parser.parse_args()
    print("| | s | s per MP | peak MB |\n| --- | --: | --: | --: |")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for megapixels in args.megapixels:
            measure(megapixels, folder)


if __name__ == "__main__":
    main()
