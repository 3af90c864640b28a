"""Fit the tables to the symbols that a model really makes.

Training assumes Gaussians. What an encoder leaves over, given the scale that the prior predicts, has heavier tails and,
since it chooses symbols by their rate, more zeros. The tables are data of the model, so they may say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from calotype.codec import DEFAULT_EFFORT
from calotype.coding import PRECISION_BITS
from calotype.encoder import PictureCoder
from calotype.pixels import Picture
from calotype.runtime import Runtime

ASSUMED_SYMBOLS = 2000
"""The Gaussian counts as much as so many symbols."""
QUIET_SHARE, QUIET_SYMBOLS = 2.0**-16, 1 << 20
"""A table is quiet if at most this share of at least so many symbols is not 0."""

Counts = NDArray[np.int64]


def count_symbols(runtime: Runtime, pictures: Iterable[Picture], levels: Sequence[int]) -> list[Counts]:
    """How often each place of each table occurs, over all pictures at all levels."""
    tables = runtime.bundle.tables
    counts = [np.zeros(len(table.frequencies), np.int64) for table in tables.tables]
    for picture in pictures:
        coder = PictureCoder.of(picture, runtime, DEFAULT_EFFORT)
        for tile in (tile for level in levels for tile in coder.chosen(level)):
            for symbols, index in tile.parts:
                for t in np.unique(index):
                    radius = tables.tables[t].radius
                    part = symbols[index == t]
                    places = np.where(np.abs(part) <= radius, part + radius, 2 * radius + 1)
                    counts[t] += np.bincount(places, minlength=2 * radius + 2)
    return counts


def quiet(counts: Sequence[Counts]) -> list[bool]:
    """Which tables are quiet, by what was counted."""
    totals = [(int(count.sum()), int(count.sum() - count[len(count) // 2 - 1])) for count in counts]
    return [symbols >= QUIET_SYMBOLS and others <= QUIET_SHARE * symbols for symbols, others in totals]


def to_frequencies(ideal: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Integers of at least 1 that sum to 2^24 and are near the ideal's shares; the likeliest takes what is left."""
    q = np.maximum(1, np.floor(ideal / ideal.sum() * 2**PRECISION_BITS)).astype(np.int64)
    likeliest = np.flatnonzero(q > 0.999 * q.max())
    q[likeliest[len(likeliest) // 2]] += 2**PRECISION_BITS - q.sum()
    return q.astype(np.uint32)


def fit(tables: Sequence[NDArray[np.uint32]], counts: Sequence[Counts]) -> list[NDArray[np.uint32]]:
    """Tables between what was assumed and what was counted; symmetric."""
    fitted: list[NDArray[np.uint32]] = []
    for q, count in zip(tables, counts, strict=True):
        both_ways = count.astype(np.float64)
        both_ways[:-1] = (both_ways[:-1] + both_ways[-2::-1]) / 2
        fitted.append(to_frequencies(both_ways + ASSUMED_SYMBOLS * q.astype(np.float64) / 2**PRECISION_BITS))
    return fitted
