"""How long calotype takes: to encode, to decode, to be imported, and to decode from a cold start.

Run `python -m calotype.bench.speed [IMAGE]`. AVIF and WebP (Pillow's defaults) run in turn with calotype, so that the
ratios between them hold on any machine, busy or not; the milliseconds hold for this one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import calotype
from calotype.bench import codecs
from calotype.bench.metrics import psnr_db
from calotype.bench.timing import medians_ms, timed
from calotype.threads import cores

RUNS, COLD_RUNS = 15, 5
WIDTH_PX, HEIGHT_PX = 768, 512
IMPORT = """
import json, sys, time
start = time.perf_counter()
import calotype
print(json.dumps([1000 * (time.perf_counter() - start), "torch" in sys.modules]))
"""
ENTRY_POINT = "from calotype.cli import main; main()"
"""What the script `calotype` runs."""
NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"


@dataclass(frozen=True)
class Timing:
    """One codec's file of the picture, and its median times."""

    codec: str
    file_bytes: int
    psnr_db: float
    encode_ms: float
    decode_ms: float


def coffee() -> Image.Image:
    """scikit-image's cup of coffee, 600x400, enlarged to 768x512."""
    from skimage import data

    image = Image.fromarray(data.coffee())
    return image.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.LANCZOS)


def in_process(image: Image.Image) -> list[Timing]:
    """Calotype at its default quality, and its peers at Pillow's; encoders in turn, then decoders in turn."""
    encoders: dict[str, Callable[[], bytes]] = {
        "calotype": partial(calotype.encode, image),
        "AVIF": partial(codecs.save, image, "AVIF"),
        "WebP": partial(codecs.save, image, "WEBP"),
    }
    files = {name: encode() for name, encode in encoders.items()}
    decoders = {
        name: partial(calotype.decode if name == "calotype" else codecs.decode, data) for name, data in files.items()
    }
    times = zip(medians_ms(list(encoders.values()), RUNS), medians_ms(list(decoders.values()), RUNS), strict=True)
    return [
        Timing(name, len(files[name]), psnr_db(np.asarray(image), np.asarray(decoders[name]())), *pair)
        for name, pair in zip(files, times, strict=True)
    ]


def _run(*arguments: str) -> str:
    """What a fresh interpreter prints. It may keep bytecode, which packages have from being installed."""
    env = {name: value for name, value in os.environ.items() if name != NO_BYTECODE}
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout


def import_ms() -> tuple[float, bool]:
    """Median milliseconds of `import calotype` in a fresh interpreter, and whether it loaded torch."""
    _run("-c", IMPORT)
    answers = [json.loads(_run("-c", IMPORT)) for _ in range(COLD_RUNS)]
    return statistics.median(ms for ms, _ in answers), any(torch for _, torch in answers)


def cold_decode_ms(data: bytes) -> float:
    """Median wall time of `calotype decode FILE PNG`, from the start of the process to its end.

    Raises:
        subprocess.CalledProcessError: The command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "picture.calo"), Path(folder, "picture.png")
        source.write_bytes(data)

        def decode() -> None:
            target.unlink(missing_ok=True)
            _run("-c", ENTRY_POINT, "decode", str(source), str(target))

        return timed(decode, COLD_RUNS)[1]


def table(timings: Sequence[Timing], title: str) -> Table:
    """Times, and calotype's as a multiple of each peer's."""
    made = Table(
        "codec", title=title, caption=f"Median of {RUNS} after a warm-up. Ratio: calotype's time over the row's."
    )
    for name in ("bytes", "PSNR dB", "encode ms", "ratio", "decode ms", "ratio"):
        made.add_column(name, justify="right")
    ours = timings[0]
    for row in timings:
        encode = (f"{row.encode_ms:.1f}", f"{ours.encode_ms / row.encode_ms:.2f}")
        decode = (f"{row.decode_ms:.1f}", f"{ours.decode_ms / row.decode_ms:.2f}")
        made.add_row(row.codec, f"{row.file_bytes:,}", f"{row.psnr_db:.2f}", *encode, *decode)
    return made


def _machine() -> str:
    """Cores this process may use, and how busy they were."""
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cores()} cores{load}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one picture and print."""
    parser = argparse.ArgumentParser(prog="python -m calotype.bench.speed", description=__doc__)
    parser.add_argument("image", type=Path, nargs="?", help="a picture (default: scikit-image's coffee at 768x512)")
    path: Path | None = parser.parse_args(arguments).image
    image = coffee() if path is None else codecs.decode(path.read_bytes())
    console = Console()
    machine = _machine()
    title = f"{image.width}x{image.height}, default qualities and threads, {machine}"
    console.print(table(in_process(image), title))
    milliseconds, torch = import_ms()
    console.print(f"import calotype: {milliseconds:.0f} ms, torch {'loaded' if torch else 'not loaded'}")
    console.print(f"calotype decode, cold: {cold_decode_ms(calotype.encode(image)):.0f} ms")


if __name__ == "__main__":
    main()
