"""A codec for pictures on a data set of small images, each a file: `python tools/small_files.py mnist MODEL`.

Prints bytes of a file, PSNR over all pixels and SSIM at some qualities, of the first 300 test images; the overhead of
a file, 46 bytes and more, is in them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import calotype
from calotype import datasets, library
from calotype.bench.small import Row, bytes_at, row
from calotype.errors import CalotypeError

IMAGES = 300
QUALITIES = range(0, 101, 10)
PSNRS_DB = (20.0, 22.5, 25.0)


def main() -> None:
    """Read the command line, encode, decode, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set: mnist, fashion-mnist, digits")
    parser.add_argument("model", type=Path, help="a model file for pictures")
    args = parser.parse_args()
    images, model = datasets.load_test(args.data).images[:IMAGES], library.open_path(args.model)
    rows = list[Row]()
    for quality in QUALITIES:
        files = [calotype.encode(image, quality=quality, model=model) for image in images]
        back = (
            np.stack([calotype.decode_array(data, model=model) for data in files])
            .reshape(images.shape)
            .astype(np.uint8)
        )
        rows.append(row(model.path.stem, f"quality {quality}", images, sum(map(len, files)), back))
        print(rows[-1], flush=True)
    for psnr_db in PSNRS_DB:
        print(f"{psnr_db} dB: {bytes_at(rows, psnr_db)} bytes")


if __name__ == "__main__":
    try:
        main()
    except CalotypeError as error:
        sys.exit(f"small_files.py: {error}")
