"""The search for a level: the largest file within a size, the smallest that reaches a PSNR."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol

from calotype.errors import InputError
from calotype.header import TOP_LEVEL

MOST_REFINED = 3
"""So many levels a slow coder tries."""


class Coder(Protocol):
    """A picture that can be coded at any level; `quick` is the same without a slow search for better latents."""

    @property
    def effort(self) -> int: ...  # noqa: D102

    @property
    def quick(self) -> Coder: ...  # noqa: D102

    def at_level(self, level: int) -> bytes: ...  # noqa: D102

    def psnr_db(self, data: bytes) -> float: ...  # noqa: D102


def _first_level(good: Callable[[int], bool]) -> int | None:
    """The lowest level that is good, where all above a good one are; None if none is."""
    low, high = 0, TOP_LEVEL + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle + 1, high)
    return low if low <= TOP_LEVEL else None


def _refined(
    coder: Coder, level: int, allowed: Callable[[bytes], bool], corrected: Callable[[int, bytes], int]
) -> bytes | None:
    """The file nearest to a limit, of a coder that is too slow to search with; None if none keeps within it.

    Args:
        coder: The slow coder.
        level: Where a search with the quick one ended.
        allowed: Whether a file keeps the limit.
        corrected: The level that would meet the limit, if the quick coder's files at all levels differed from the
            slow one's as they do at this level.
    """
    best: bytes | None = None
    tried = set[int]()
    while level not in tried and len(tried) < MOST_REFINED:
        tried.add(level)
        data = coder.at_level(level)
        best = data if allowed(data) else best
        level = corrected(level, data)
    return best


def within_size(coder: Coder, size_bytes: int) -> bytes:
    """The file of the highest level that has at most `size_bytes` bytes."""
    at = cache(coder.quick.at_level)

    def highest(limit_bytes: float) -> int:
        too_large = _first_level(lambda level: len(at(level)) > limit_bytes)
        return TOP_LEVEL if too_large is None else max(0, too_large - 1)

    def corrected(level: int, data: bytes) -> int:
        return highest(size_bytes * len(at(level)) / len(data))

    level = highest(size_bytes)
    if len(at(level)) > size_bytes:
        raise InputError(f"size {size_bytes}: the smallest file of this picture has {len(at(0))} bytes")
    if coder.effort == coder.quick.effort:
        return at(level)
    return _refined(coder, level, lambda data: len(data) <= size_bytes, corrected) or at(level)


def reaching_psnr(coder: Coder, psnr_db: float) -> bytes:
    """The file of the lowest level that reaches a PSNR."""

    @cache
    def at(level: int) -> tuple[bytes, float]:
        data = coder.quick.at_level(level)
        return data, coder.psnr_db(data)

    def lowest(target_db: float) -> int | None:
        return _first_level(lambda level: at(level)[1] >= target_db)

    def corrected(level: int, data: bytes) -> int:
        better = lowest(psnr_db + at(level)[1] - coder.psnr_db(data))
        return TOP_LEVEL if better is None else better

    level = lowest(psnr_db)
    if level is None:
        raise InputError(f"psnr {psnr_db} dB: this picture reaches {at(TOP_LEVEL)[1]:.2f} dB; use lossless")
    if coder.effort == coder.quick.effort:
        return at(level)[0]
    return _refined(coder, level, lambda data: coder.psnr_db(data) >= psnr_db, corrected) or at(level)[0]
