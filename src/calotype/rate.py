"""The rate that is asked for, and the level that meets it: the largest file within a size, the smallest at a PSNR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import inf
from numbers import Real
from typing import Protocol

from calotype.errors import InputError, OptionError
from calotype.header import TOP_LEVEL

RATES = {"quality": (0, 100), "bpp": (1e-4, 1e3), "size": (1, 1 << 40), "psnr": (1, 200)}
DEFAULT_QUALITY = 60.0
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
    if (
        level is None
        and coder.effort > coder.quick.effort
        and coder.psnr_db(best := coder.at_level(TOP_LEVEL)) >= psnr_db
    ):
        return best
    if level is None:
        raise InputError(f"psnr {psnr_db} dB: this picture reaches {at(TOP_LEVEL)[1]:.2f} dB; use lossless")
    if coder.effort == coder.quick.effort:
        return at(level)[0]
    return _refined(coder, level, lambda data: coder.psnr_db(data) >= psnr_db, corrected) or at(level)[0]


def level_of(quality: float) -> int:
    """The level of a quality 0..100."""
    return round(quality * TOP_LEVEL / 100)


@dataclass(frozen=True)
class Rate:
    """What a file is to reach: one of `RATES`, and a value within its limits."""

    name: str
    value: float

    @classmethod
    def of(cls, rates: Mapping[str, float | None], *, lossless: bool = False) -> Rate:
        """The one rate that is given, checked; the usual quality if none is.

        Raises:
            OptionError: If several are given, or one beside `lossless`, or its value is out of range.
        """
        given = [name for name, value in rates.items() if value is not None]
        if len(given) + lossless > 1:
            raise OptionError(f"{' and '.join([*given, *['lossless'] * lossless])} are given; they exclude each other")
        name = given[0] if given else "quality"
        value = rates[name] if given else DEFAULT_QUALITY
        low, high = RATES[name]
        if isinstance(value, bool) or not isinstance(value, Real) or not low <= value <= high:
            raise OptionError(f"{name} {value!r} is not a number within {low}..{high}")
        return cls(name, float(value))

    def most_bytes(self, pixel_count: int) -> float:
        """How large the file of a picture of so many pixels may be."""
        if self.name in ("size", "bpp"):
            return int(self.value if self.name == "size" else self.value * pixel_count / 8)
        return inf

    def reached_by(self, coder: Coder, most_bytes: float) -> bytes:
        """The file that a coder makes of its picture.

        Raises:
            InputError: If no level reaches the rate.
        """
        if self.name == "quality":
            return coder.at_level(level_of(self.value))
        if self.name == "psnr":
            return reaching_psnr(coder, self.value)
        return within_size(coder, int(most_bytes))
