"""Training pictures, decoded once and held in memory as uint8."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from calotype.bundle import LEVELS

SKIPPED_SUFFIXES = {".tsv", ".txt", ".json", ".md"}


def _read(path: Path, least_px: int) -> Tensor | None:
    try:
        with Image.open(path) as image:
            if min(image.size) < least_px:
                return None
            return torch.from_numpy(np.array(image.convert("RGB")))
    except (UnidentifiedImageError, OSError):
        return None


def read_folder(folder: Path, least_px: int) -> list[Tensor]:
    """Every picture of a folder as uint8 (h, w, 3), in the order of the names; those under `least_px` are left out."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() not in SKIPPED_SUFFIXES)
    with ThreadPoolExecutor() as pool:
        pictures = [p for p in pool.map(partial(_read, least_px=least_px), paths) if p is not None]
    if not pictures:
        raise FileNotFoundError(f"{folder}: no picture of at least {least_px} pixels a side")
    return pictures


class Crops:
    """Random crops, mirrored at random; a picture is drawn in proportion to its area.

    Crops at or above `fine_level` come from the `fine` pictures half the time: lossless ones, without a codec's traces.
    """

    def __init__(self, pictures: list[Tensor], fine: list[Tensor], fine_level: int, crop_px: int, seed: int) -> None:
        self.pools = [pictures, fine]
        self.weights = [np.array([p.shape[0] * p.shape[1] for p in pool], float) for pool in self.pools]
        self.fine_level, self.crop_px = fine_level, crop_px
        self.random = np.random.default_rng(seed)

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Crops (count, 3, crop, crop) in [-0.5, 0.5] and their levels (count,), one from each of `count` strata."""
        level = ((np.arange(count) + self.random.random(count)) * (LEVELS / count)).astype(np.int64)
        crops = [self._crop(int(v)) for v in level]
        x = torch.stack(crops).permute(0, 3, 1, 2).contiguous().float() / 255 - 0.5
        return x, torch.from_numpy(level)

    def _crop(self, level: int) -> Tensor:
        fine = bool(self.pools[1]) and level >= self.fine_level and self.random.random() < 0.5
        pool, weight = self.pools[fine], self.weights[fine]
        picture = pool[self.random.choice(len(pool), p=weight / weight.sum())]
        top, left = (int(self.random.integers(0, side - self.crop_px + 1)) for side in picture.shape[:2])
        crop = picture[top : top + self.crop_px, left : left + self.crop_px]
        flips = [axis for axis in (0, 1) if self.random.random() < 0.5]
        return crop.flip(flips)
