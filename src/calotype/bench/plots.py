"""The plots of a benchmark, drawn with matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calotype.bench.bd_rate import Curve
from calotype.bench.results import METRICS, Results
from calotype.bench.summary import BdTable, curves, published_name

SHOWN_PUBLISHED = ("VTM-18.0", "AV1-libaom-444", "BPG-444-x265", "compressai-mbt2018-mean", "paper-elic2022", "MLIC++")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "calotype", "svg.fonttype": "path", "font.size": 10, "axes.grid": True, "grid.alpha": 0.25,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "figure.dpi": 110,
}  # fmt: skip
OURS = "calotype"
OUR_COLOUR = "#b5442c"
TITLES = {f"rd-{metric}": f"Rate and {title}" for metric, title in METRICS.items()} | {
    "bd-rate": "Bits at equal PSNR",
    "time": "Bits at equal PSNR, and speed",
}
LEAST_BPP, MOST_BPP = 0.04, 8


def draw(results: Results, tables: Mapping[str, BdTable]) -> dict[str, Figure]:
    """Every plot of a run, by the name of its file: RD curves of each metric, BD-rates, and quality against time."""
    with mpl.rc_context(STYLE):
        made = {f"rd-{metric}": _rd(results, metric) for metric in METRICS if curves(results, metric)}
        table = tables["psnr_db"]
        if table.anchors and table.rows:
            made["bd-rate"] = _bars(table)
            if results.timings:
                made["time"] = _against_time(results, table)
    return made


def rendered(figure: Figure, format: str) -> bytes:  # noqa: A002
    """A figure as a PNG or SVG file that is the same every time."""
    file = BytesIO()
    metadata = {"Date": None} if format == "svg" else {"Software": None}
    with mpl.rc_context(STYLE):
        figure.savefig(file, format=format, bbox_inches="tight", metadata=metadata)
    return file.getvalue()


def _rd(results: Results, metric: str) -> Figure:
    figure = Figure(figsize=(9, 5.6))
    axes = figure.add_subplot()
    for published in results.published:
        if published.metric == metric and published.name in SHOWN_PUBLISHED:
            _line(axes, published.curve, published_name(published.name), linewidth=1, linestyle=":", alpha=0.9)
    for curve in curves(results, metric):
        ours = curve.name == OURS
        style = {"linewidth": 2.6, "color": OUR_COLOUR, "zorder": 5} if ours else {"linewidth": 1.3}
        _line(axes, curve, curve.name, marker="o", markersize=5 if ours else 3, **style)
    axes.set(xscale="log", xlabel="bits per pixel of the whole file", ylabel=METRICS[metric])
    _plain_ticks(axes)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _line(axes: Axes, curve: Curve, label: str, **style: object) -> None:
    points = sorted((b, v) for b, v in zip(curve.bpp, curve.value, strict=True) if LEAST_BPP <= b <= MOST_BPP)
    axes.plot([b for b, _ in points], [v for _, v in points], label=label, **style)  # pyright: ignore[reportArgumentType]


def _plain_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 4, 8) if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()


def anchor_of(table: BdTable) -> int:
    """The anchor of the plots: WebP as measured here, if it ran, else the first."""
    return table.anchors.index("WebP") if "WebP" in table.anchors else 0


def _bars(table: BdTable) -> Figure:
    anchor = anchor_of(table)
    shown = {published_name(name) for name in SHOWN_PUBLISHED}
    rates = ((r.bd_rate[anchor], r) for r in table.rows if not r.published or r.codec in shown)
    rows = sorted(((rate, r) for rate, r in rates if rate is not None), key=lambda pair: -pair[0])
    figure = Figure(figsize=(9, 0.8 + 0.34 * len(rows)))
    axes = figure.add_subplot()
    colours = [OUR_COLOUR if r.codec == OURS else "#b9b9b9" if r.published else "#5b7c99" for _, r in rows]
    bars = axes.barh([r.codec for _, r in rows], [value for value, _ in rows], color=colours)
    axes.bar_label(bars, fmt="%+.1f%%", padding=4, fontsize=8)
    axes.margins(x=0.15)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel=f"bits at equal PSNR against {table.anchors[anchor]}, percent (BD-rate)")
    return figure


def _against_time(results: Results, table: BdTable) -> Figure:
    anchor = anchor_of(table)
    rates = {r.codec: r.bd_rate[anchor] for r in table.rows if not r.published}
    panels = {
        "encode": {t.codec: t.encode_mp_s for t in results.timings},
        "decode": {t.codec: t.decode_mp_s for t in results.timings},
    }
    figure = Figure(figsize=(9, 4.4))
    for i, (verb, speeds) in enumerate(panels.items()):
        axes = figure.add_subplot(1, 2, i + 1)
        for codec, speed in speeds.items():
            rate = rates.get(codec)
            if rate is not None:
                axes.scatter(speed, rate, color=OUR_COLOUR if codec == OURS else "#5b7c99", zorder=3)
                axes.annotate(codec, (speed, rate), (4, 4), textcoords="offset points", fontsize=7)
        axes.margins(x=0.25)
        axes.set(xscale="log", xlabel=f"{verb}, megapixels a second")
        axes.set_ylabel(f"BD-rate against {table.anchors[anchor]}, percent" if i == 0 else "")
    return figure
