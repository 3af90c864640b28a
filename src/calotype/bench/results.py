"""What a benchmark measured, as frozen data, and as `results.json` and `results.csv`."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path

from calotype.bench.bd_rate import Curve
from calotype.errors import InputError

METRICS = {
    "psnr_db": "PSNR (RGB), dB",
    "ssim": "SSIM",
    "ms_ssim_db": "MS-SSIM, dB",
    "ssimulacra2": "SSIMULACRA2",
}
"""The measures of quality, higher is better, and their titles. Null where a picture came back exactly and
the measure is infinite, or where the picture is too small for the measure."""


@dataclass(frozen=True)
class CodecInfo:
    """A codec as it ran.

    Attributes:
        name: What tables call it, such as "WebP"; unique in a run.
        settings: The encoder's settings in words.
        version: Of the library that encodes.
        lossless: Whether it gives back every picture exactly, at its only quality, 100.
    """

    name: str
    settings: str
    version: str
    lossless: bool


@dataclass(frozen=True)
class Point:
    """One picture by one codec at one quality, from real bytes."""

    picture: str
    codec: str
    quality: float
    width_px: int
    height_px: int
    file_bytes: int
    bpp: float
    psnr_db: float | None
    ssim: float | None
    ms_ssim_db: float | None
    ssimulacra2: float | None


@dataclass(frozen=True)
class Timing:
    """How fast a codec is, alone on the machine: medians over pictures, in megapixels a second.

    Attributes:
        codec: The codec's name.
        quality: The quality it ran at, about 0.7 bpp.
        bpp: Mean rate at that quality.
        psnr_db: Mean PSNR at that quality; null for lossless codecs.
        encode_mp_s: Speed of the encoder.
        decode_mp_s: Speed of the decoder.
        encode_ms: Median time for one picture.
        decode_ms: Median time for one picture.
        encode_peak_mb: Peak resident memory of a process that does nothing but encode one picture.
        decode_peak_mb: The same for decoding. Both are null where the system does not tell.
    """

    codec: str
    quality: float
    bpp: float
    psnr_db: float | None
    encode_mp_s: float
    decode_mp_s: float
    encode_ms: float
    decode_ms: float
    encode_peak_mb: float | None
    decode_peak_mb: float | None


@dataclass(frozen=True)
class Published:
    """A published curve: means over the same pictures, taken from a paper or a repository."""

    name: str
    source: str
    curve: Curve
    metric: str = "psnr_db"


@dataclass(frozen=True)
class Results:
    """One run of the benchmark.

    Attributes:
        machine: What it ran on: name of a fact to its value ("processor", "cores", "python", "threads", ...).
        codecs: The codecs, in the order in which tables list them; calotype first.
        points: Every measurement.
        timings: Of each codec; empty where the serial pass was left out.
        published: Curves to compare with.
    """

    machine: dict[str, str]
    codecs: tuple[CodecInfo, ...]
    points: tuple[Point, ...]
    timings: tuple[Timing, ...] = ()
    published: tuple[Published, ...] = ()

    def curve(self, codec: str, metric: str) -> Curve:
        """The codec's curve: at each quality, the mean bpp and the mean of the metric over `pictures_of(metric)`.

        Raises:
            ValueError: The codec is lossless, has fewer than two qualities, or there is no such picture.
        """
        if any(info.lossless for info in self.codecs if info.name == codec):
            raise ValueError(f"{codec} is lossless: a point, not a curve")
        pictures = self.pictures_of(metric)
        by_quality: defaultdict[float, list[Point]] = defaultdict(list)
        for point in self.points:
            if point.codec == codec and point.picture in pictures:
                by_quality[point.quality].append(point)
        means = [
            (statistics.fmean(p.bpp for p in group), statistics.fmean(getattr(p, metric) for p in group))
            for _, group in sorted(by_quality.items())
        ]
        return Curve(codec, tuple(bpp for bpp, _ in means), tuple(value for _, value in means))

    def pictures_of(self, metric: str) -> frozenset[str]:
        """The pictures that curves are made of: those for which every lossy codec has the metric at every quality.

        One that some codec gave back exactly, such as a drawing, would distort the means of that codec alone.
        """
        lossy = {codec.name for codec in self.codecs if not codec.lossless}
        without = {p.picture for p in self.points if p.codec in lossy and getattr(p, metric) is None}
        return frozenset(self.pictures) - without

    def qualities(self, codec: str) -> tuple[float, ...]:
        """The qualities that the codec ran at, rising."""
        return tuple(sorted({point.quality for point in self.points if point.codec == codec}))

    @property
    def pictures(self) -> tuple[str, ...]:
        """Names of the pictures, in order."""
        return tuple(dict.fromkeys(point.picture for point in self.points))

    def to_json(self) -> str:
        """The whole run as JSON."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)

    def to_csv(self) -> str:
        """The points as a table."""
        file = StringIO()
        writer = csv.DictWriter(file, [f.name for f in fields(Point)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) for point in self.points)
        return file.getvalue()


def read_published(folder: Path) -> tuple[Published, ...]:
    """Every published PSNR curve of a folder of JSON files with `name`, `source` and `points` (`bpp`, `psnr`).

    Raises:
        InputError: A file is something else, or there is none.
    """
    found: list[Published] = []
    for path in sorted(folder.glob("*.json")):
        found += _read_published(path)
    if not found:
        raise InputError(f"{folder}: no published curve; it takes JSON files with name, source and points")
    return tuple(found)


def _read_published(path: Path) -> list[Published]:
    """The curve of a file; nothing, if it has one point only."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        points = [(p["psnr"], p["bpp"]) for p in raw["points"] if p.get("psnr") is not None]
        if len(points) == 1:
            return []
        smallest = dict(sorted(points, reverse=True))  # some curves give a PSNR twice; the last is the smaller
        curve = Curve(raw["name"], tuple(smallest.values()), tuple(smallest))
        return [Published(raw["name"], raw.get("source", ""), curve)]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a published curve (name, points with bpp and psnr): {error!r}") from error
