"""Four pictures through calotype, and through other codecs at the same number of bytes.

Run `python -m calotype.bench.demo --out demo-out`. It needs no network: the pictures come with scikit-image. Every
file is written, read back and decoded, so sizes are those on disk. The peers' settings are in `calotype.bench.codecs`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from calotype.bench.codecs import CALOTYPE, PEERS, Codec, quality_at_size
from calotype.bench.comparison import Cell, side_by_side
from calotype.bench.metrics import psnr_db
from calotype.bench.timing import timed

PICTURES = {"astronaut": (145, 25), "coffee": (300, 190), "chelsea": (100, 70), "rocket": (235, 260)}
"""Names in `skimage.data`, and the corner (left, top) of the crop that the comparison shows."""
QUALITIES = (20, 50, 80)
NOT_SHOWN = "AVIF (PSNR)"
"""In the table only: the comparison is for the eye, as AVIF's own settings are."""


@dataclass(frozen=True)
class Row:
    """One file: what it cost and what came back."""

    codec: str
    quality: float
    file_bytes: int
    psnr_db: float
    encode_ms: float
    decode_ms: float
    decoded: Image.Image

    @property
    def bpp(self) -> float:
        """Bits of the whole file per pixel."""
        return 8 * self.file_bytes / (self.decoded.width * self.decoded.height)


@dataclass(frozen=True)
class Trial:
    """One picture with calotype at one quality, and each peer at the bytes of that file."""

    picture: str
    original: Image.Image
    ours: Row
    peers: tuple[Row, ...]

    def size(self, row: Row) -> str:
        """A row's bytes, with a star where the codec has no file as small as ours."""
        return f"{row.file_bytes:,}{'*' if row.file_bytes > self.ours.file_bytes else ''}"


def pictures() -> dict[str, Image.Image]:
    """The four photographs that scikit-image ships."""
    from skimage import data

    return {name: Image.fromarray(getattr(data, name)()) for name in PICTURES}


def measure(codec: Codec, image: Image.Image, quality: float, path: Path) -> Row:
    """Write, read back and decode one file, with the times of both ways."""
    encoded, encode_ms = timed(lambda: codec.encode(image, quality))
    path.write_bytes(encoded)
    stored = path.read_bytes()
    decoded, decode_ms = timed(lambda: codec.decode(stored))
    distortion = psnr_db(np.asarray(image), np.asarray(decoded))
    return Row(codec.name, quality, len(stored), distortion, encode_ms, decode_ms, decoded)


def compare(picture: str, image: Image.Image, quality: int, out: Path) -> Trial:
    """Calotype at a quality, then each peer at the best quality that is not larger; the files go to `out`."""
    stem = f"{picture}-q{quality}"
    ours = measure(CALOTYPE, image, quality, out / (stem + CALOTYPE.suffix))
    peers = [
        measure(peer, image, quality_at_size(peer, image, ours.file_bytes), out / (stem + peer.suffix))
        for peer in PEERS
    ]
    return Trial(picture, image, ours, tuple(peers))


def table(trials: Sequence[Trial]) -> Table:
    """A section for each trial."""
    caption = "* the codec's smallest file, larger than calotype's. Times: median of 3 after a warm-up."
    made = Table("picture", "codec", title="Other codecs at the bytes of calotype", caption=caption)
    for name in ("quality", "bytes", "bpp", "PSNR dB", "encode ms", "decode ms"):
        made.add_column(name, justify="right")
    for trial in trials:
        for row in (trial.ours, *trial.peers):
            times = (f"{row.encode_ms:.1f}", f"{row.decode_ms:.1f}")
            figures = (f"{row.quality:.4g}", trial.size(row), f"{row.bpp:.3f}", f"{row.psnr_db:.2f}", *times)
            made.add_row(trial.picture, row.codec, *figures, style="bold" if row is trial.ours else None)
        made.add_section()
    return made


def comparison(trials: Sequence[Trial]) -> Image.Image:
    """Crops of what came back, one row of the sheet a trial."""
    sheet: list[tuple[tuple[int, int], list[Cell]]] = []
    for trial in trials:
        original = trial.original
        cells = [Cell(original, trial.picture, f"original, {original.width}x{original.height}")]
        for row in (trial.ours, *trial.peers):
            if row.codec != NOT_SHOWN:
                detail = f"{trial.size(row)} bytes, {row.psnr_db:.2f} dB"
                cells.append(Cell(row.decoded, f"{row.codec}, {row.bpp:.2f} bpp", detail))
        sheet.append((PICTURES[trial.picture], cells))
    footer = (
        "Crops, enlarged twice. Bytes and PSNR (RGB) of the whole picture, each codec at its best quality within "
        "calotype's bytes (* its smallest is larger). AVIF is tuned for the eye, not for PSNR."
    )
    return side_by_side(sheet, footer)


def main(arguments: Sequence[str] | None = None) -> None:
    """Encode, decode, print the table, draw the comparison."""
    parser = argparse.ArgumentParser(prog="python -m calotype.bench.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for the files (default: demo-out)")
    out: Path = parser.parse_args(arguments).out
    try:
        originals = pictures()
    except ModuleNotFoundError:
        parser.error("needs scikit-image for its pictures: pip install 'calotype[demo]'")
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    with console.status("measuring"):
        trials = [compare(name, image, quality, out) for name, image in originals.items() for quality in QUALITIES]
    console.print(table(trials))
    drawn = out / "comparison.png"
    comparison([trial for trial in trials if trial.ours.quality == min(QUALITIES)]).save(drawn)
    console.print(f"comparison: {drawn}", soft_wrap=True)


if __name__ == "__main__":
    main()
