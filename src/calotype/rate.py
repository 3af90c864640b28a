"""The search for a level: the largest file within a size, the smallest that reaches a PSNR."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from calotype.container import TOP_LEVEL
from calotype.encoder import PictureCoder
from calotype.errors import InputError


def _first_level(good: Callable[[int], bool]) -> int | None:
    """The lowest level that is good, where all above a good one are; None if none is."""
    low, high = 0, TOP_LEVEL + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle + 1, high)
    return low if low <= TOP_LEVEL else None


def within_size(coder: PictureCoder, size_bytes: int) -> bytes:
    """The file of the highest level that has at most `size_bytes` bytes."""

    @cache
    def at(level: int) -> bytes:
        return coder.at_level(level)

    too_large = _first_level(lambda level: len(at(level)) > size_bytes)
    if too_large == 0:
        raise InputError(f"size {size_bytes}: the smallest file of this picture has {len(at(0))} bytes")
    return at(TOP_LEVEL if too_large is None else too_large - 1)


def reaching_psnr(coder: PictureCoder, psnr_db: float) -> bytes:
    """The file of the lowest level that reaches a PSNR."""

    @cache
    def at(level: int) -> tuple[bytes, float]:
        data = coder.at_level(level)
        return data, coder.psnr_db(data)

    level = _first_level(lambda level: at(level)[1] >= psnr_db)
    if level is None:
        raise InputError(f"psnr {psnr_db} dB: this picture reaches {at(TOP_LEVEL)[1]:.2f} dB; use lossless")
    return at(level)[0]
