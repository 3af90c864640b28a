"""The rate-distortion curve of calotype over a folder of pictures, from real bytes.

Run `python -m calotype.bench.rd FOLDER --reference DIR --out results.json`. Every picture (as 8-bit RGB) is encoded at
every quality and decoded. The field's convention: a point of the curve is the mean over the pictures of each picture's
bpp, and of each picture's PSNR in RGB. The published curves of DIR hold for one set (such as Kodak): give it that set.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

import calotype
from calotype.bench.bd_rate import Curve, bd_rate, read_reference
from calotype.bench.metrics import psnr_db
from calotype.codec import DEFAULT_EFFORT

QUALITIES = (0, 9, 18, 27, 36, 45, 55, 64, 73, 82, 91, 100)
REFERENCES = ("WebP", "BPG-444-x265", "AV1-libaom-444", "VTM-18.0", "compressai-mbt2018-mean")


@dataclass(frozen=True)
class Point:
    """One picture at one quality."""

    picture: str
    quality: float
    file_bytes: int
    bpp: float
    psnr_db: float
    model_id: str
    """What coded it; empty where calotype chose to store the picture losslessly."""


def pictures_in(folder: Path) -> list[Path]:
    """The folder's files that Pillow knows by their suffix, in the order of their names."""
    known = Image.registered_extensions()
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in known)


def measure(path: Path, quality: float, effort: int = DEFAULT_EFFORT) -> Point:
    """Encode a picture as RGB, decode the bytes, compare. A profile in the picture counts as bytes of the file."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    data = calotype.encode(image, quality=quality, effort=effort)
    distortion = psnr_db(np.asarray(image), calotype.decode_array(data))
    info = calotype.info(data)
    return Point(path.name, quality, info.file_bytes, info.bpp, distortion, info.model_id)


def means(points: Iterable[Point]) -> dict[float, tuple[float, float]]:
    """Quality to (mean bpp, mean PSNR) over its pictures."""
    by_quality: dict[float, list[Point]] = {}
    for point in points:
        by_quality.setdefault(point.quality, []).append(point)
    return {
        quality: (statistics.fmean(p.bpp for p in group), statistics.fmean(p.psnr_db for p in group))
        for quality, group in sorted(by_quality.items())
    }


def bd_rates(ours: Curve, folder: Path) -> dict[str, float | str]:
    """BD-rate of `ours` against each published curve that the folder has, or the reason why there is none."""
    rates: dict[str, float | str] = {}
    for name in REFERENCES:
        path = folder / f"{name}.json"
        if path.is_file():
            try:
                rates[name] = bd_rate(read_reference(path), ours)
            except ValueError as error:
                rates[name] = str(error)
    return rates


def _curve_table(curve: dict[float, tuple[float, float]], pictures: int) -> Table:
    table = Table(title=f"calotype, mean of {pictures} picture{'s' * (pictures != 1)}")
    for name in ("quality", "bpp", "PSNR dB"):
        table.add_column(name, justify="right")
    for quality, (bpp, distortion) in curve.items():
        table.add_row(f"{quality:g}", f"{bpp:.4f}", f"{distortion:.3f}")
    return table


def _bd_table(rates: dict[str, float | str], folder: Path) -> Table:
    table = Table("against", title=f"BD-rate, curves of {folder}", caption="below zero: calotype is smaller")
    table.add_column("BD-rate", justify="right")
    for name, rate in rates.items():
        table.add_row(name, rate if isinstance(rate, str) else f"{rate:+.1f}%")
    return table


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m calotype.bench.rd", description=__doc__)
    parser.add_argument("folder", type=Path, help="pictures")
    parser.add_argument("--reference", type=Path, help="folder of published curves, one JSON file each")
    parser.add_argument("--out", type=Path, help="write every point to this JSON file")
    parser.add_argument("--qualities", type=_qualities, default=QUALITIES, help="comma-separated, 0-100")
    parser.add_argument(
        "--effort", type=int, default=DEFAULT_EFFORT, help="calotype's effort, 1-9 (default: %(default)s)"
    )
    parsed = parser.parse_args(arguments)
    for folder in (parsed.folder, parsed.reference):
        if folder is not None and not folder.is_dir():
            parser.error(f"{folder}: no such folder")
    if not pictures_in(parsed.folder):
        parser.error(f"{parsed.folder}: no pictures")
    return parsed


def _qualities(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def main(arguments: Sequence[str] | None = None) -> None:
    """Sweep, print the curve and the BD-rates, write the points."""
    given = _arguments(arguments)
    paths = pictures_in(given.folder)
    jobs = [(path, quality) for path in paths for quality in given.qualities]
    terminal = Console(stderr=True)
    points = [
        measure(path, quality, given.effort)
        for path, quality in track(jobs, "calotype", console=terminal, disable=not terminal.is_terminal)
    ]
    curve = means(points)
    console = Console()
    console.print(_curve_table(curve, len(paths)))
    rates: dict[str, float | str] = {}
    if given.reference is not None:
        rates = bd_rates(Curve("calotype", *zip(*curve.values(), strict=True)), given.reference)
        console.print(_bd_table(rates, given.reference))
    if given.out is not None:
        mean = [{"quality": q, "bpp": bpp, "psnr_db": distortion} for q, (bpp, distortion) in curve.items()]
        results = {
            "codec": f"calotype {calotype.__version__}",
            "folder": str(given.folder),
            "effort": given.effort,
            "mean": mean,
            "bd_rate_percent": rates,
            "points": [asdict(point) for point in points],
        }
        given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
