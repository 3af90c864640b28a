"""Pictures for the report's viewer: each by every lossy codec of a run, at the same number of bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from calotype.bench.codecs import Codec, codec_named, quality_at_size
from calotype.bench.measure import Cache, digest, read_rgb
from calotype.bench.metrics import psnr_db
from calotype.bench.report import Exhibit, Version
from calotype.bench.results import Results
from calotype.whole import write_whole

RATE_BPP = 0.25
"""Where differences between codecs are plain to see."""
PICTURES = 3
SHOWN_PX = 1024


def exhibits(results: Results, pictures: Sequence[Path], folder: Path, cache: Cache) -> list[Exhibit]:
    """A few pictures of a run, their files kept in `folder`."""
    folder.mkdir(exist_ok=True)
    lossy = [codec_named(info.name) for info in results.codecs if not info.lossless]
    step = max(1, len(pictures) // PICTURES)
    return [_exhibit(path, lossy, folder, cache) for path in pictures[::step][:PICTURES]]


def _exhibit(path: Path, codecs: Sequence[Codec], folder: Path, cache: Cache) -> Exhibit:
    original = read_rgb(path)
    versions = tuple(_version(path, codec, folder, cache) for codec in codecs)
    return Exhibit(path.stem, original.crop(_shown(original)), RATE_BPP, versions)


def _version(path: Path, codec: Codec, folder: Path, cache: Cache) -> Version:
    """The best file within the bytes; made once, for a search encodes several times."""
    image = read_rgb(path)
    area_px = image.width * image.height
    key = digest("exhibit", RATE_BPP, image.tobytes(), codec.name, codec.settings, codec.version())
    file = folder / f"{path.stem}-{key[:8]}{codec.suffix}"
    quality = cache.get(key)
    if quality is None or not file.exists():
        quality = quality_at_size(codec, image, round(RATE_BPP * area_px / 8))
        write_whole(file, codec.encode(image, quality))
        cache.put(key, quality)
    data = file.read_bytes()
    decoded = codec.decode(data)
    distortion = psnr_db(np.asarray(image), np.asarray(decoded))
    psnr = None if math.isinf(distortion) else distortion
    return Version(codec.name, quality, len(data), 8 * len(data) / area_px, psnr, decoded.crop(_shown(image)))


def _shown(image: Image.Image) -> tuple[int, int, int, int]:
    """What the page holds of a picture, which would be too large for a browser if it were a camera's."""
    return 0, 0, min(image.width, SHOWN_PX), min(image.height, SHOWN_PX)
