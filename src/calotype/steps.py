"""Which elements of y each step of the prior codes (SPEC.md, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Part:
    """The n elements of y (m, rows, columns) that belong to a step, in the order of (c, i, j).

    Attributes:
        elements: Their flat positions in y (n,).
        gathered: With four steps, their flat positions in (m, rows / 2, columns / 2), which holds them alone (n,).
    """

    elements: Places
    gathered: Places


@lru_cache(maxsize=4)
def step_of(steps: int, channels: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """The step, of 2 or 4, that codes each element of y (channels, rows, columns).

    In each quarter of the channels the four steps visit the four places of every 2x2 in another order, diagonals first;
    of two steps each does the work of two of the four.
    """
    i, j = np.arange(rows)[:, None], np.arange(columns)[None]
    place = 2 * ((i + j) % 2) + i % 2
    quarter = 4 * np.arange(channels)[:, None, None] // channels
    return ((place ^ quarter) * steps // 4).astype(np.uint8)


@lru_cache(maxsize=4)
def spans_of(steps: int, channels: int) -> tuple[tuple[slice, ...], ...]:
    """The channels that each step codes at each place of every 2x2, row by row: neighbours, as many everywhere."""
    step, count = step_of(steps, channels, 2, 2).reshape(channels, 4), channels // steps
    starts = [[int((step[:, place] == t).argmax()) for place in range(4)] for t in range(steps)]
    return tuple(tuple(slice(start, start + count) for start in row) for row in starts)


def channels_by_place(t: int, channels: int) -> Places:
    """All channels: first those of which step t of four codes the first place of every 2x2, then the second, ..."""
    return np.concatenate([np.arange(span.start, span.stop) for span in spans_of(4, channels)[t]])


@lru_cache(maxsize=4)
def parts_of(steps: int, channels: int, rows: int, columns: int) -> tuple[Part, ...]:
    """The elements of each step; rows and columns are even."""
    step = step_of(steps, channels, rows, columns)
    elements = [np.flatnonzero(step == t) for t in range(steps)]
    gathered = _gathered_places(step).ravel() if steps == 4 else np.zeros(step.size, np.intp)
    return tuple(Part(places, gathered[places]) for places in elements)


def _gathered_places(step: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Where each element stands among those of its own step, if they are gathered place by place of every 2x2."""
    channels, rows, columns = step.shape
    out = np.empty(step.shape, np.intp)
    inner = np.arange(rows // 2 * (columns // 2)).reshape(rows // 2, columns // 2)
    for t in range(4):
        order = channels_by_place(t, channels)
        for place, chosen in enumerate(np.split(order, 4)):
            first = (place * len(chosen) + np.arange(len(chosen)))[:, None, None] * inner.size
            out[chosen, place // 2 :: 2, place % 2 :: 2] = first + inner
    return out


@lru_cache(maxsize=4)
def coded_of(steps: int, channels: int, rows: int, columns: int, height: int, width: int) -> tuple[Places | slice, ...]:
    """Which of the elements of each step are coded in a tile of height by width pixels."""
    if height > 16 * (rows - 1) and width > 16 * (columns - 1):
        return (slice(None),) * steps
    inside = (16 * np.arange(rows)[:, None] < height) & (16 * np.arange(columns)[None] < width)
    coded = np.broadcast_to(inside, (channels, rows, columns)).ravel()
    return tuple(np.flatnonzero(coded[part.elements]) for part in parts_of(steps, channels, rows, columns))
