"""What a folder of pictures holds, and the run that suits it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import quantiles

from calotype import pixels
from calotype.errors import InputError
from calotype.learn.config import Architecture, Config, Recipe
from calotype.learn.samples import FAILURES, Form, raw, size_px
from calotype.pixels import Picture

LOOKED_AT = 48
"""So many pictures are decoded to see of what form they are."""
MOST_CROP_PX, CROPS_AREA_PX = 128, 1 << 17
ENDLESS = 1_000_000_000
"""Steps of a run that ends by the clock."""
SCALES = BASE, SMALL = "base", "small"
SIZES = {
    BASE: Architecture(),
    SMALL: Architecture(
        y_channels=384,
        z_channels=48,
        width=96,
        blocks=3,
        detail=0,
        prior_width=96,
        context_steps=2,
        context_blocks=1,
    ),
}
GREY_CHANNELS = 192
"""Of y, for a model of one channel at the small scale: of the 256 numbers of 16x16 samples the others hold nothing."""


@dataclass(frozen=True)
class Folder:
    """Pictures that someone wants to train on.

    Attributes:
        paths: Pictures, those that are exact duplicates once.
        duplicates: Files that equal one of them byte for byte.
        sizes_px: Height and width of each picture.
        form: Channels and depth that most of them have; grey where all that were looked at are, if stored as RGB.
        unreadable: Files that are no pictures, and why.
    """

    paths: list[Path]
    duplicates: list[Path]
    sizes_px: list[tuple[int, int]]
    form: Form
    unreadable: dict[Path, str]

    def __str__(self) -> str:
        kind = {1: "grey", 3: "colour"}.get(self.form.channels, f"{self.form.channels} bands")
        (count, (height, width)) = max((n, size) for size, n in Counter(self.sizes_px).items())
        sides = f"{width}x{height}" if count == len(self.paths) else f"most often {width}x{height}"
        twins = f"; {len(self.duplicates)} exact duplicates are left out" if self.duplicates else ""
        return f"{len(self.paths)} pictures, {kind}, {self.form.depth} bits, {sides}{twins}"


def inspect(paths: Sequence[Path]) -> Folder:
    """Look at files: sizes and duplicates of all, channels and depth of some.

    Raises:
        InputError: If none is a picture.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    unreadable: dict[Path, str] = {}
    for path in paths:
        size = size_px(path)
        if isinstance(size, str):
            unreadable[path] = size
        else:
            sizes[path] = size
    if not sizes:
        raise InputError(f"{len(paths)} files, but no picture")
    duplicates = _duplicates(list(sizes))
    distinct = [path for path in sizes if path not in duplicates]
    form = _form(distinct[:: -(-len(distinct) // LOOKED_AT)])
    return Folder(distinct, sorted(duplicates), [sizes[path] for path in distinct], form, unreadable)


def _duplicates(paths: Sequence[Path]) -> set[Path]:
    """All but the first of files that are equal."""
    by_bytes: defaultdict[int, list[Path]] = defaultdict(list)
    for path in paths:
        by_bytes[path.stat().st_size].append(path)
    seen: set[tuple[int, bytes]] = set()
    found: set[Path] = set()
    for size, candidates in by_bytes.items():
        for path in candidates if len(candidates) > 1 else ():
            key = size, hashlib.sha256(path.read_bytes()).digest()
            if key in seen:
                found.add(path)
            seen.add(key)
    return found


def _form(paths: Sequence[Path]) -> Form:
    """What most of the pictures are; one in colour among grey ones makes all of them colour."""
    forms: Counter[Form] = Counter()
    for path in paths:
        try:
            grey = pixels.as_grey(Picture(raw(path), None, {}))
        except FAILURES:  # the run names it
            continue
        forms[Form(grey.channels, grey.depth)] += 1
    if not forms:
        raise InputError(f"{len(paths)} pictures looked at, and none can be decoded")
    common = forms.most_common(1)[0][0]
    colourful = common.channels == 1 and any(form.channels == 3 for form in forms)
    return replace(common, channels=3) if colourful else common


def plan(folder: Folder, minutes: float, scale: str, start: Architecture | None) -> Config:
    """The run that suits a folder, but for its learning rates (`rates.suited`).

    Args:
        folder: What it is to learn from.
        minutes: How long it may take.
        scale: One of SCALES; of no effect with a `start`.
        start: Architecture of the model that it starts from, None for the principal components of the pictures.
    """
    channels = folder.form.channels
    sizes = start or _sizes(scale, channels)
    more = max(1.0, channels / 3)  # an error weighs the same in each band
    lambdas = {"lambda_min": sizes.lambda_min * more, "lambda_max": sizes.lambda_max * more} if start is None else {}
    crop_px = _crop_px(folder.sizes_px)
    batch = max(2, min(16, CROPS_AREA_PX // crop_px**2))
    recipe = Recipe(steps=ENDLESS, minutes=minutes, crop_px=crop_px, batch=batch)
    return Config(replace(sizes, channels=channels, **lambdas), recipe)


def _sizes(scale: str, channels: int) -> Architecture:
    sizes = SIZES[scale]
    return replace(sizes, y_channels=GREY_CHANNELS) if scale == SMALL and channels == 1 else sizes


def _crop_px(sizes_px: Sequence[tuple[int, int]]) -> int:
    """The largest crop that fits into three quarters of the pictures."""
    sides = [min(size) for size in sizes_px]
    fits = quantiles(sides, n=4)[0] if len(sides) > 1 else sides[0]
    return max(64, min(MOST_CROP_PX, int(fits) // 64 * 64))
