"""How an encoder turns residuals into symbols. Decoding does not depend on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from calotype.coding import Tables

Ints = NDArray[np.int32]
Quantiser = Callable[[NDArray[np.float32], NDArray[np.uint8], Tables], Ints]
"""Residuals y - mean and table indices, both (n,) -> symbols (n,)."""

BITS_PER_SQUARED_STEP = 24.0
"""What a squared error of one step is worth. At high rate and with orthogonal transforms it would be 6 / ln 2 = 8.7."""
LEAST_SAVED_BITS = 1.0
"""What a step towards zero has to save even where it adds no error to y: the analysis leaves y where bits and the
picture's error balance, so that in the mean the picture loses by it. Both by what crops cost (docs/effort.md)."""


def round_to_nearest(residual: NDArray[np.float32], index: NDArray[np.uint8], tables: Tables) -> Ints:  # noqa: ARG001
    """The plain quantiser."""
    return np.rint(residual).astype(np.int32)


def rate_aware(
    residual: NDArray[np.float32],
    index: NDArray[np.uint8],
    tables: Tables,
    bits_per_squared_step: float = BITS_PER_SQUARED_STEP,
) -> Ints:
    """Takes the neighbour nearer to zero where it saves a bit (LEAST_SAVED_BITS) more than its error is worth."""
    nearest = np.rint(residual).astype(np.int32)
    places = np.flatnonzero(nearest != 0)
    q, r, table = nearest[places], residual[places], index[places]
    smaller = q - np.sign(q)
    saved_bits = tables.cost_bits(q, table) - tables.cost_bits(smaller, table)
    added_error = (r - smaller) ** 2 - (r - q) ** 2
    nearest[places] = np.where(saved_bits > LEAST_SAVED_BITS + bits_per_squared_step * added_error, smaller, q)
    return nearest
