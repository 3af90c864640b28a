"""How z is coded: in parts, of which the later ones know their neighbours (SPEC.md, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Z_LIMIT = 127
SIZES = 32
NEIGHBOURS = (((-1, -1), (-1, 1), (1, -1), (1, 1)), ((-1, 0), (0, -1), (0, 1), (1, 0)))
"""Of the elements of the second and the third part; all of them belong to earlier parts."""
WEIGHT_BITS = 8

Ints = NDArray[np.int32]
Indices = NDArray[np.uint8]
Places = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Context:
    """What the four neighbours of an element of z say of it; of each, its difference from its channel's offset.

    Attributes:
        weight: What their sum counts in the element's mean, in 1/256: (2, k), for the second and the third part.
        table: The element's table, by that of its channel and by the sum of their sizes, up to 31: (tables, 32).
    """

    weight: NDArray[np.int8]
    table: Indices


@lru_cache(maxsize=8)
def parts_of(channels: int, rows: int, columns: int) -> tuple[Places, ...]:
    """Flat positions in z of both even rows and columns, of both odd ones, and of all others."""
    i, j = np.arange(rows)[:, None], np.arange(columns)[None]
    part = np.broadcast_to(np.where((i + j) % 2, 2, i % 2), (channels, rows, columns))
    return tuple(np.flatnonzero(part == t) for t in range(3))


def around(u: Ints, t: int) -> tuple[Ints, Ints]:
    """For each element of u (k, a, b), the sum of its neighbours in part t, and of their sizes; 0 beyond the edge."""
    _, rows, columns = u.shape
    wider = np.pad(u, ((0, 0), (1, 1), (1, 1)))
    near = [wider[:, 1 + i : 1 + i + rows, 1 + j : 1 + j + columns] for i, j in NEIGHBOURS[t - 1]]
    return sum(near[1:], near[0]), sum((np.abs(v) for v in near[1:]), np.abs(near[0]))


@dataclass(frozen=True, eq=False)
class HyperPrior:
    """The distribution of z at a level.

    Attributes:
        offset: The mean of each channel (k,), as far as nothing is known of z.
        table: The table of each channel (k,).
        context: What is made of neighbours, by models that look at them. Without it z has one part.
    """

    offset: NDArray[np.int16]
    table: Indices
    context: Context | None

    def parts(self, shape: tuple[int, int, int]) -> tuple[Places, ...]:
        """Flat positions in z of the elements of each part, in the order of (c, i, j)."""
        return parts_of(*shape) if self.context else (np.arange(np.prod(shape)),)

    def of_part(self, t: int, z: Ints) -> tuple[Ints, Indices]:
        """Means and tables of the elements of part t (n,), given those of earlier parts in z (k, a, b).

        Means lie within +-127.
        """
        elements = self.parts(z.shape)[t]
        mean, index = self._given_neighbours(t, z) if t and self.context else self._given_nothing(z)
        return mean.ravel()[elements], index.ravel()[elements]

    def _given_nothing(self, z: Ints) -> tuple[Ints, Indices]:
        offset, table = self.offset.astype(np.int32)[:, None, None], self.table[:, None, None]
        return np.broadcast_to(offset, z.shape), np.broadcast_to(table, z.shape)

    def _given_neighbours(self, t: int, z: Ints) -> tuple[Ints, Indices]:
        assert self.context
        offset, table = self._given_nothing(z)
        total, size = around(z - offset, t)
        weight = self.context.weight[t - 1].astype(np.int32)[:, None, None]
        mean = offset + (weight * total + (1 << WEIGHT_BITS - 1) >> WEIGHT_BITS)
        return mean.clip(-Z_LIMIT, Z_LIMIT), self.context.table[table, size.clip(max=SIZES - 1)]
