"""Pictures by several codecs at the same bytes, drawn side by side: `python tools/equal_bytes.py OUT.png ROW...`.

A row is PICTURE,QUALITY,MODEL: the model codes the picture at the quality, the others at their best within its bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from calotype.bench.codecs import AVIF_PSNR, WEBP, codec_named, quality_at_size
from calotype.bench.comparison import CROP_PX, Cell, side_by_side
from calotype.bench.measure import read_rgb
from calotype.bench.metrics import psnr_db

OTHERS = ("photo", AVIF_PSNR.name, WEBP.name)


def on_white(image: Image.Image) -> Image.Image:
    """A picture that is smaller than a cell with white around it."""
    sheet = Image.new("RGB", (max(image.width, CROP_PX), max(image.height, CROP_PX)), "white")
    sheet.paste(image)
    return sheet


def row_of(picture: Path, quality: float, model: str) -> list[Cell]:
    """The original, then what came back from each codec."""
    original = read_rgb(picture)
    size = len(codec_named(model).encode(original, quality))
    cells = [Cell(on_white(original), picture.stem, f"{original.width}x{original.height}")]
    for name in (model, *OTHERS):
        codec = codec_named(name)
        chosen = quality if name == model else quality_at_size(codec, original, size)
        data = codec.encode(original, chosen)
        decoded: Image.Image = codec.decode(data)
        larger = "*" if len(data) > size else ""
        db = psnr_db(np.asarray(original), np.asarray(decoded))
        cells.append(Cell(on_white(decoded), Path(name).stem, f"{len(data):,}{larger} bytes, {db:.2f} dB"))
    return cells


def main() -> None:
    """Draw the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("rows", nargs="+", metavar="PICTURE,QUALITY,MODEL")
    arguments = parser.parse_args()
    rows = [row.rsplit(",", 2) for row in arguments.rows]
    sheet = [((0, 0), row_of(Path(picture), float(quality), model)) for picture, quality, model in rows]
    footer = "Crops, enlarged twice. Bytes and PSNR (RGB) of the whole picture, each codec at its best quality within "
    side_by_side(sheet, footer + "the model's bytes (* its smallest file is larger).").save(
        arguments.out, optimize=True
    )


if __name__ == "__main__":
    main()
