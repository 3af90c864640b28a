"""How an encoder turns residuals into symbols. Decoding does not depend on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from calotype.coding import Tables

Ints = NDArray[np.int32]
Quantiser = Callable[[NDArray[np.float32], NDArray[np.uint8], Tables], Ints]
"""Residuals y - mean and table indices, both (n,) -> symbols (n,)."""

BITS_PER_SQUARED_STEP = 40.0
"""What a squared error of one step is worth. At high rate and with orthogonal transforms it would be 6 / ln 2 = 8.7;
with the shipped model, 40 gave the fewest bits at equal PSNR on validation pictures."""


DEAD_ZONE = 0.05
"""How far past the middle between two symbols the one nearer to zero still takes over, in steps."""


def round_to_nearest(residual: NDArray[np.float32], index: NDArray[np.uint8], tables: Tables) -> Ints:  # noqa: ARG001
    """The plain quantiser."""
    return np.rint(residual).astype(np.int32)


def with_dead_zone(residual: NDArray[np.float32], index: NDArray[np.uint8], tables: Tables) -> Ints:  # noqa: ARG001
    """Rounds, a little down: what choosing by rate does, in the mean of all tables."""
    return np.trunc(residual + np.copysign(np.float32(0.5 - DEAD_ZONE), residual)).astype(np.int32)


def rate_aware(
    residual: NDArray[np.float32],
    index: NDArray[np.uint8],
    tables: Tables,
    bits_per_squared_step: float = BITS_PER_SQUARED_STEP,
) -> Ints:
    """Takes the neighbour nearer to zero wherever the bits it saves outweigh the squared error it adds."""
    nearest = np.rint(residual).astype(np.int32)
    places = np.flatnonzero(nearest != 0)
    q, r, table = nearest[places], residual[places], index[places]
    smaller = q - np.sign(q)
    saved_bits = tables.cost_bits(q, table) - tables.cost_bits(smaller, table)
    added_error = (r - smaller) ** 2 - (r - q) ** 2
    nearest[places] = np.where(saved_bits > bits_per_squared_step * added_error, smaller, q)
    return nearest
