"""Every picture by every codec at every quality, in parallel, with a cache that survives a kill.

A measurement costs a second or so, and there are thousands: each is kept as one line of JSON as soon as it is made,
under a key of all that it depends on. A run that is started again does only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from calotype.bench import metrics
from calotype.bench.codecs import Codec, codec_named
from calotype.bench.results import Point
from calotype.errors import CalotypeError, InputError

METRICS = (1, *(f"{name} {version(name)}" for name in ("scikit-image", "scipy", "ssimulacra2")))
"""Part of every key. The number is to be raised when a metric is computed in another way."""


class Cache:
    """A file of JSON lines `{"key": ..., "value": ...}`, appended to as results come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        whole = 0
        with self._path.open("rb+") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                row = json.loads(line)
                self._values[row["key"]] = row["value"]
                whole += len(line)
            file.truncate(whole)  # a kill may have cut the last line

    def get(self, key: str) -> Any:
        """What was put under the key, or None."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value of plain JSON."""
        self._values[key] = value
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "value": value}) + "\n")


def content(path: Path) -> str:
    """What a file is known by, whatever its name."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(*parts: object) -> str:
    """A key made of anything that has a faithful repr."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Job:
    """One picture by one codec at one quality."""

    picture: Path
    codec: str
    quality: float


@lru_cache(maxsize=4)
def read_rgb(path: Path) -> Image.Image:
    """A picture as 8-bit RGB, upright, without its metadata, which only some codecs would keep and pay for.

    Raises:
        InputError: It cannot be read, or is not what every codec can hold: 8 bits, opaque.
    """
    try:
        with Image.open(path) as opened:
            if opened.mode[0] in "IF" or opened.has_transparency_data:
                raise InputError(f"{path}: mode {opened.mode} is deeper than 8 bits or transparent; make it RGB")
            upright = ImageOps.exif_transpose(opened)
            return Image.fromarray(np.array(upright.convert("RGB")))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def measure(job: Job) -> Point:
    """Encode to real bytes, decode those, and compare.

    Raises:
        InputError: The picture cannot be read, or the codec cannot hold it.
    """
    image, codec = read_rgb(job.picture), codec_named(job.codec)
    try:
        data = codec.encode(image, job.quality)
        a, b = np.asarray(image), np.asarray(codec.decode(data))
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        raise InputError(f"{job.picture}: {codec.name} at quality {job.quality:g}: {error}") from error
    return Point(
        job.picture.name, codec.name, job.quality, image.width, image.height, len(data),
        8 * len(data) / (image.width * image.height), _finite(metrics.psnr_db(a, b)),
        *(_if_large_enough(metric, a, b) for metric in (metrics.ssim, metrics.ms_ssim_db, metrics.ssimulacra2)),
    )  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _if_large_enough(metric: Callable[[Any, Any], float], a: Any, b: Any) -> float | None:
    try:
        return _finite(metric(a, b))
    except metrics.TooSmall:
        return None


def jobs_of(pictures: Sequence[Path], codecs: Iterable[Codec], most_qualities: int | None = None) -> list[Job]:
    """All measurements of a run; `most_qualities` thins the sweeps, keeping their ends."""
    return [
        Job(picture, codec.name, quality)
        for codec in codecs
        for quality in thinned(codec.qualities, most_qualities)
        for picture in pictures
    ]


def thinned(qualities: Sequence[float], most: int | None) -> Sequence[float]:
    """At most so many of the qualities, evenly, with the first and the last."""
    if most is None or len(qualities) <= most:
        return qualities
    return [qualities[round(i * (len(qualities) - 1) / (most - 1))] for i in range(most)]


def measure_all(jobs: Sequence[Job], cache: Cache, workers: int) -> Iterator[Point]:
    """The points of all jobs, as they come: those from the cache first."""
    versions = {name: codec_named(name).version() for name in {job.codec for job in jobs}}
    contents = {path: content(path) for path in {job.picture for job in jobs}}

    def key(job: Job) -> str:
        codec = codec_named(job.codec)
        return digest(METRICS, contents[job.picture], codec.name, codec.settings, versions[job.codec], job.quality)

    missing: defaultdict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        if (known := cache.get(key(job))) is None:
            missing[key(job)].append(job)
        else:
            yield replace(Point(**known), picture=job.picture.name)
    for name, point in _in_parallel({name: equal[0] for name, equal in missing.items()}, workers):
        cache.put(name, asdict(point))
        for job in missing[name]:
            yield replace(point, picture=job.picture.name)


def _end_with_parent() -> None:
    """Have this worker end when the process that started it is killed; else it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_parallel(jobs: dict[str, Job], workers: int) -> Iterator[tuple[str, Point]]:
    if not jobs:
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
    with ProcessPoolExecutor(workers, spawn, _end_with_parent) as pool:
        names = {pool.submit(measure, job): name for name, job in jobs.items()}
        try:
            for future in as_completed(names):
                yield names[future], future.result()
        except BrokenProcessPool as error:
            raise CalotypeError("a worker ended, out of memory perhaps: run again with --jobs 1; it goes on") from error
        finally:
            pool.shutdown(cancel_futures=True)
