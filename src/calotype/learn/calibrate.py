"""Fit the tables to the symbols that a model really makes.

Training assumes Gaussians. What an encoder leaves over, given the scale that the prior predicts, has heavier tails and,
since it chooses symbols by their rate, more zeros. The tables are data of the model, so they may say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calotype.bundle import Bundle
from calotype.codec import DEFAULT_EFFORT
from calotype.coding import PRECISION_BITS
from calotype.encoder import PictureCoder
from calotype.hyper import SIZES, WEIGHT_BITS, Z_LIMIT, Context, HyperPrior, Ints, Places, around, parts_of
from calotype.pixels import Picture
from calotype.runtime import Runtime

ASSUMED_SYMBOLS = 2000
"""The Gaussian counts as much as so many symbols."""
QUIET_SHARE, QUIET_SYMBOLS = 2.0**-16, 1 << 20
"""A table is quiet if at most this share of at least so many symbols is not 0."""

ASSUMED_SQUARES = 320
"""Sums of neighbours that say nothing count as much as so many squared steps of z."""
BITS_PER_TABLE = 0.75
"""What another table than the channel's own has to save, for each table in between: a few elements say little."""

Counts = NDArray[np.int64]
Hypers = Mapping[int, Sequence[NDArray[np.int16]]]
"""Every z (k, a, b) of each level."""


@dataclass(frozen=True)
class Seen:
    """What a model makes of pictures: how often each place of each table occurs, and all z."""

    counts: list[Counts]
    z: Hypers


def observe(runtime: Runtime, pictures: Iterable[Picture], levels: Sequence[int]) -> Seen:
    """Code all pictures at all levels."""
    tables = runtime.bundle.tables
    counts = [np.zeros(len(table.frequencies), np.int64) for table in tables.tables]
    z: dict[int, list[NDArray[np.int16]]] = {level: [] for level in levels}
    for picture in pictures:
        coder = PictureCoder.of(picture, runtime, DEFAULT_EFFORT)
        for level, tile in ((at, tile) for at in levels for tile in coder.chosen(at)):
            z[level].append(tile.latents.z)
            for symbols, index in tile.parts:
                for t in np.unique(index):
                    radius = tables.tables[t].radius
                    part = symbols[index == t]
                    places = np.where(np.abs(part) <= radius, part + radius, 2 * radius + 1)
                    counts[t] += np.bincount(places, minlength=2 * radius + 2)
    return Seen(counts, z)


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


def fit_context(z: Hypers, bundle: Bundle) -> Context:
    """What neighbours say of an element of z, by those that were seen."""
    tables = bundle.tables
    every = np.arange(len(tables.tables), dtype=np.uint8)
    context = Context(_neighbour_weights(z, bundle), np.repeat(every[:, None], SIZES, 1))
    residuals = np.arange(-2 * Z_LIMIT, 2 * Z_LIMIT + 1, dtype=np.int32)
    cost_bits = tables.cost_bits(*np.broadcast_arrays(residuals[:, None], every[None]))
    counts = np.zeros((len(every), SIZES, len(residuals)))
    for prior, one, t, elements in _later_parts(z, bundle):
        mean, index = replace(prior, context=context).of_part(t, one)
        size = around(one - prior.offset[:, None, None], t)[1].ravel()[elements]
        np.add.at(counts, (index, size.clip(max=SIZES - 1), one.ravel()[elements] - mean + 2 * Z_LIMIT), 1)
    away = np.abs(every[:, None].astype(int) - every[None])
    best = (counts @ cost_bits + BITS_PER_TABLE * away[:, None]).argmin(2)
    return replace(context, table=best.astype(np.uint8))


def _later_parts(z: Hypers, bundle: Bundle) -> Iterator[tuple[HyperPrior, Ints, int, Places]]:
    """The second and the third part of every z."""
    for level, all_z in z.items():
        for one in all_z:
            for t, elements in enumerate(parts_of(*one.shape)):
                if t:
                    yield bundle.hyper_prior(level), one.astype(np.int32), t, elements


def _neighbour_weights(z: Hypers, bundle: Bundle) -> NDArray[np.int8]:
    """Least squares: what the sum of its neighbours counts in the mean of an element."""
    of_both, of_sum = np.zeros((2, 2, bundle.manifest.z_channels))
    for prior, one, t, elements in _later_parts(z, bundle):
        u = one - prior.offset[:, None, None]
        own, total = (v.ravel()[elements].reshape(len(u), -1) for v in (u, around(u, t)[0]))
        of_both[t - 1] += (own * total).sum(1)
        of_sum[t - 1] += (total * total).sum(1)
    weight = np.rint((of_both / (of_sum + ASSUMED_SQUARES)) * 2**WEIGHT_BITS)
    return weight.clip(-Z_LIMIT, Z_LIMIT).astype(np.int8)
