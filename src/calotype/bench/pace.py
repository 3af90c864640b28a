"""How fast each codec is and how much memory it takes, one after the other, after all else is measured."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from calotype.bench.codecs import Codec, codec_named
from calotype.bench.measure import read_rgb
from calotype.bench.results import Results, Timing
from calotype.bench.timing import medians_ms
from calotype.errors import CalotypeError

RUNS = 3
PICTURES = 4
RATE_BPP = 0.7
"""Lossy codecs are timed at the quality of their sweep whose mean rate is nearest to this."""


def timings(results: Results, pictures: Sequence[Path]) -> list[Timing]:
    """Every codec of a run on its first pictures; in turn, so that a busy moment of the machine meets them all."""
    codecs = [codec_named(info.name) for info in results.codecs]
    chosen = qualities(results)
    encode_ms: list[list[float]] = []
    decode_ms: list[list[float]] = []
    sizes_px: list[int] = []
    for path in pictures[:PICTURES]:
        image = read_rgb(path)
        encoders = [partial(codec.encode, image, chosen[codec.name]) for codec in codecs]
        decoders = [partial(codec.decode, encode()) for codec, encode in zip(codecs, encoders, strict=True)]
        encode_ms.append(medians_ms(encoders, RUNS))
        decode_ms.append(medians_ms(decoders, RUNS))
        sizes_px.append(image.width * image.height)
    return [
        _timing(results, codec, chosen[codec.name], [row[i] for row in encode_ms], [row[i] for row in decode_ms],
                sizes_px, pictures[0])
        for i, codec in enumerate(codecs)
    ]  # fmt: skip


def qualities(results: Results) -> dict[str, float]:
    """The quality at which each codec is timed."""

    def nearest(codec: str) -> float:
        rates = {q: abs(_means(results, codec, q)[0] - RATE_BPP) for q in results.qualities(codec)}
        return min(rates, key=rates.__getitem__)

    return {info.name: nearest(info.name) for info in results.codecs}


def _means(results: Results, codec: str, quality: float) -> tuple[float, float | None]:
    points = [p for p in results.points if p.codec == codec and p.quality == quality]
    psnrs = [p.psnr_db for p in points if p.psnr_db is not None]
    return statistics.fmean(p.bpp for p in points), statistics.fmean(psnrs) if len(psnrs) == len(points) else None


def _timing(
    results: Results, codec: Codec, quality: float, encode_ms: list[float], decode_ms: list[float],
    sizes_px: list[int], picture: Path,
) -> Timing:  # fmt: skip
    def mp_s(times_ms: list[float]) -> float:
        return statistics.median(px / 1000 / ms for px, ms in zip(sizes_px, times_ms, strict=True))

    with TemporaryDirectory() as folder:
        file = Path(folder, "file" + codec.suffix)
        encode_peak_mb = peak_mb("encode", codec.name, quality, picture, file)
        decode_peak_mb = peak_mb("decode", codec.name, quality, picture, file)
    return Timing(
        codec.name, quality, *_means(results, codec.name, quality), mp_s(encode_ms), mp_s(decode_ms),
        statistics.median(encode_ms), statistics.median(decode_ms), encode_peak_mb, decode_peak_mb,
    )  # fmt: skip


def peak_mb(verb: str, codec: str, quality: float, picture: Path, file: Path) -> float | None:
    """Peak memory of a process that encodes `picture` to `file`, or decodes `file`; interpreter and imports included.

    None where the system does not tell.

    Raises:
        CalotypeError: The process fails.
    """
    command = [sys.executable, "-m", "calotype.bench.pace", verb, codec, str(quality), str(picture), str(file)]
    try:
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except subprocess.CalledProcessError as error:
        raise CalotypeError(f"{codec} cannot {verb} {picture} on its own: {error.stderr.strip()[-300:]}") from error
    return json.loads(printed)


def _own_peak_mb() -> float | None:
    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss, this does not count the process that started this one
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def _main(verb: str, codec: str, quality: str, picture: str, file: str) -> None:
    work: dict[str, Callable[[], object]] = {
        "encode": lambda: Path(file).write_bytes(codec_named(codec).encode(read_rgb(Path(picture)), float(quality))),
        "decode": lambda: codec_named(codec).decode(Path(file).read_bytes()),
    }
    work[verb]()
    print(json.dumps(_own_peak_mb()))


if __name__ == "__main__":
    _main(*sys.argv[1:])
