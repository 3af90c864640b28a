"""Wall-clock time of a call: one warm-up, then the median of a few runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def once_ms(work: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def timed(work: Callable[[], T], runs: int = 3) -> tuple[T, float]:
    """What `work` returns on its warm-up, and the median milliseconds of `runs` calls after it."""
    result = work()
    return result, statistics.median(once_ms(work) for _ in range(runs))


def medians_ms(works: Sequence[Callable[[], object]], runs: int) -> list[float]:
    """Median milliseconds of each of `works`, called in turn, so that a busy moment of the machine meets them all."""
    for work in works:
        work()
    rounds = [[once_ms(work) for work in works] for _ in range(runs)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]
