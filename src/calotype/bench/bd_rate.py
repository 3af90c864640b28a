"""The Bjontegaard difference of two rate-distortion curves, and the published curves to hold ours against.

Bjontegaard (VCEG-M33, 2001) fits log(rate) over PSNR and integrates the gap between two fits over the PSNR that both
curves reach. The fit here is a piecewise cubic (PCHIP), which, unlike the one cubic polynomial of 2001, passes through
every point and does not swing between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A codec's operating points, in any order.

    Attributes:
        name: What the codec is called in tables.
        bpp: Rate of each point, bits of the whole file per pixel.
        value: What the points reach in a measure of quality, higher is better: PSNR in RGB, if nothing else is said.
    """

    name: str
    bpp: tuple[float, ...]
    value: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.bpp) != len(self.value) or len(self.bpp) < 2:
            raise ValueError(f"{self.name}: {len(self.bpp)} rates and {len(self.value)} values, not two or more points")
        if not all(math.isfinite(v) for v in self.bpp + self.value) or min(self.bpp) <= 0:
            raise ValueError(f"{self.name}: rates must be positive and every value finite")


def bd_rate(anchor: Curve, test: Curve) -> float:
    """Mean difference in rate of `test` against `anchor` at equal PSNR, in percent; below zero, `test` is smaller.

    Example:
        >>> webp = Curve("a", (0.2, 0.4, 0.8, 1.6), (28.0, 31.0, 34.0, 37.0))
        >>> smaller = Curve("b", (0.16, 0.32, 0.64, 1.28), (28.0, 31.0, 34.0, 37.0))
        >>> round(bd_rate(webp, smaller), 6)
        -20.0

    Raises:
        ValueError: The curves have no PSNR in common, or a curve has one PSNR twice.
    """
    pairs = [(_array(c.value), np.log(_array(c.bpp))) for c in (anchor, test)]
    return 100 * math.expm1(_mean_gap(*pairs, names=f"{anchor.name} and {test.name}", unit="PSNR"))


def bd_psnr(anchor: Curve, test: Curve) -> float:
    """Mean difference in PSNR of `test` against `anchor` at equal rate, in dB; above zero, `test` is better.

    Raises:
        ValueError: The curves have no rate in common, or a curve has one rate twice.
    """
    pairs = [(np.log(_array(c.bpp)), _array(c.value)) for c in (anchor, test)]
    return _mean_gap(*pairs, names=f"{anchor.name} and {test.name}", unit="rate")


def _array(values: tuple[float, ...]) -> Floats:
    return np.asarray(values, np.float64)


def _mean_gap(anchor: tuple[Floats, Floats], test: tuple[Floats, Floats], names: str, unit: str) -> float:
    """Mean of test's y minus anchor's over the x that both span."""
    low = float(max(anchor[0].min(), test[0].min()))
    high = float(min(anchor[0].max(), test[0].max()))
    if not low < high:
        raise ValueError(f"{names}: the curves have no {unit} in common")
    if any(len(np.unique(x)) < len(x) for x, _ in (anchor, test)):
        raise ValueError(f"{names}: a curve has the same {unit} at two points")
    return (_integral(*test, low, high) - _integral(*anchor, low, high)) / (high - low)


def _integral(x: Floats, y: Floats, low: float, high: float) -> float:
    order = np.argsort(x)
    return float(PchipInterpolator(x[order], y[order]).integrate(low, high))
