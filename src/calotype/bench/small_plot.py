"""The plot of a benchmark of small images: bytes of an image against PSNR, one line for each codec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calotype.bench.plots import STYLE

MODEL: dict[str, Any] = {"linestyle": "-", "linewidth": 2.0, "marker": "o", "markersize": 4}
GENERAL: dict[str, dict[str, Any]] = {"mosaic": {"linestyle": "--"}, "files": {"linestyle": ":"}}
STRIP_DB = 1.2
"""Height that a codec without loss takes above the curves."""
BESIDE: dict[str, Any] = {"xytext": (-6, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


class Point(Protocol):
    """What is drawn of a row."""

    @property
    def image_bytes(self) -> float:
        """Bytes of an image."""
        ...

    @property
    def psnr_db(self) -> float | None:
        """None without loss."""
        ...


def draw(curves: Mapping[str, Sequence[Point]]) -> Figure:
    """Codecs by name, "NAME, mosaic", "NAME, files" or a model's; those without loss stand in a strip at the top."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 6.4))
        axes = figure.add_subplot()
        lossy = {name: rows for name, rows in curves.items() if rows[0].psnr_db is not None}
        colours: dict[str, str] = {}
        for name, rows in lossy.items():
            family, _, how = name.partition(", ")
            colour = colours.setdefault(family, f"C{len(colours) % 10}")
            points = sorted((row.image_bytes, row.psnr_db) for row in rows)
            axes.plot(*zip(*points, strict=True), label=name, color=colour, **GENERAL.get(how, MODEL))
        _lossless(axes, {name: rows[0].image_bytes for name, rows in curves.items() if name not in lossy})
        axes.set(xscale="log", xlabel="bytes an image, the model not counted", ylabel="PSNR over all pixels, dB")
        low, high = axes.get_xlim()
        shown = [tick for tick in TICKS if low <= tick <= high]
        axes.set_xticks(shown, [f"{tick}" for tick in shown])
        axes.minorticks_off()
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _lossless(axes: Axes, sizes: Mapping[str, float]) -> None:
    """Above the curves, the smallest first: a mark at its bytes, and its name."""
    low, top = axes.get_ylim()
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= top])
    for step, (name, size) in enumerate(sorted(sizes.items(), key=lambda item: item[1])):
        height = top + STRIP_DB * (len(sizes) - step)
        axes.plot(size, height, marker="|", markersize=9, markeredgewidth=2, color="#555555")
        axes.annotate(f"{name}, no loss", (size, height), fontsize=7, **BESIDE)
