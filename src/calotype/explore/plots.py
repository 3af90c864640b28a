"""Plots of a model of small images, drawn with matplotlib without a display."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from calotype.bench.plots import OUR_COLOUR, STYLE
from calotype.bench.small import Row
from calotype.bitsback.model import HALF
from calotype.coding import Family, Table
from calotype.errors import InputError
from calotype.explore.measures import Anomaly
from calotype.explore.study import Floats

QUIET = "#5b7c99"
TSNE_POINTS = 2000
HISTOGRAMS = 8
TAIL_SHARE = 1e-3


def losses(log: Path) -> Figure | None:
    """Training and validation loss of a run; None if the log holds none.

    Raises:
        InputError: If the file is no log.
    """
    try:
        rows: list[dict[str, Any]] = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise InputError(f"{log}: no log of a run: {error}; delete it, or name another --run") from error
    names = ("epoch", "loss", "validation") if rows and "epoch" in rows[0] else ("step", "train_bpd", "validation_bpd")
    if not rows or any(name not in row for row in rows for name in names):
        return None
    figure, axes = _plain(figsize=(7, 3.6))
    over, *curves = ([row[name] for row in rows] for name in names)
    for curve, label, colour in zip(curves, ("training", "validation"), (QUIET, OUR_COLOUR), strict=True):
        axes.plot(over, curve, label=label, color=colour)
    axes.set(xlabel=names[0], ylabel="loss" if names[0] == "epoch" else "minus the ELBO, bits per dimension")
    spread = [value for curve in curves for value in curve[len(curve) // 10 :]]
    axes.set_ylim(min(spread) - 0.05 * np.ptp(spread), max(spread) + 0.1 * np.ptp(spread) + 1e-9)
    axes.legend()
    return figure


def _plain(**options: Any) -> tuple[Figure, Any]:
    with mpl.rc_context(STYLE):
        figure = Figure(**options)
        return figure, figure.add_subplot()


def scatter(y: Floats, labels: NDArray[np.uint8]) -> Figure:
    """Latents in two dimensions, by PCA and by t-SNE, coloured by label."""
    y, labels = y[:TSNE_POINTS], labels[:TSNE_POINTS]
    scaled = (y - y.mean(0)) / np.maximum(y.std(0), 1e-9)
    tsne = TSNE(2, random_state=0, init="pca", perplexity=min(30, len(y) / 4))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(10, 4.6))
        left, right = (figure.add_subplot(1, 2, i, xticks=[], yticks=[]) for i in (1, 2))
        _dots(left, "PCA of latents", PCA(2, random_state=0).fit_transform(y), labels)
        _dots(right, "t-SNE of latents at equal variance", tsne.fit_transform(scaled), labels)
        figure.legend(*right.get_legend_handles_labels(), loc="center right", fontsize=8, markerscale=3)
    return figure


def _dots(axes: Axes, title: str, points: NDArray[Any], labels: NDArray[np.uint8]) -> None:
    axes.set_title(title)
    for label in np.unique(labels):
        axes.scatter(*points[labels == label].T, s=5, label=f"{label}", color=f"C{label % 10}")


def rates(bits: NDArray[np.float64], active: NDArray[np.bool_]) -> Figure:
    """Bits of each latent over its prior, largest first; those that are not active are pale."""
    order = np.argsort(-bits)
    figure, axes = _plain(figsize=(7, 3.2))
    axes.bar(range(len(bits)), bits[order], color=[QUIET if active[i] else "#c9c9c9" for i in order])
    axes.set(xlabel="latents, by their rate", ylabel="bits an image")
    return figure


def curve(rows: Sequence[Row]) -> Figure:
    """Rate and distortion over all levels."""
    figure, axes = _plain(figsize=(6, 3.8))
    points = [(row.image_bytes, row.psnr_db) for row in rows if row.psnr_db is not None]
    axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=OUR_COLOUR)
    axes.set(xlabel="bytes an image, the model not counted", ylabel="PSNR over all pixels, dB")
    return figure


def histograms(y: Floats, tables: Sequence[Table]) -> Figure:
    """Latents of images that were not trained on, in bins, and the tables that code them."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6))
        for i in range(min(HISTOGRAMS, len(tables))):
            axes, table = figure.add_subplot(2, 4, i + 1, yticks=[]), tables[i]
            low, high = np.quantile(y[:, i], [TAIL_SHARE, 1 - TAIL_SHARE])
            axes.hist(y[:, i], bins=50, range=(low, high), density=True, color=QUIET, alpha=0.6)
            places, share = np.arange(-table.radius, table.radius + 1), table.frequencies[:-1] / 2**24
            axes.plot(places, share, color=OUR_COLOUR)
            axes.set(xlim=(low, high), title=f"latent {i + 1}")
        figure.tight_layout()
    return figure


def ring(y: Floats, scales: Family, prior_scale: int, axes_shown: Sequence[int]) -> Figure:
    """Posterior means of the first layer of images that were not trained on, and the prior's table."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6))
        share = scales.frequencies[prior_scale] / 2**24
        for i, latent in enumerate(axes_shown[:HISTOGRAMS]):
            axes = figure.add_subplot(2, 4, i + 1, yticks=[])
            axes.hist(y[:, latent], bins=50, range=(-HALF / 2, HALF / 2), density=True, color=QUIET, alpha=0.6)
            axes.plot(np.arange(-HALF, HALF), share, color=OUR_COLOUR)
            axes.set(xlim=(-HALF / 2, HALF / 2), title=f"latent {latent + 1}")
        figure.tight_layout()
    return figure


def scores(found: Anomaly, names: tuple[str, str]) -> Figure:
    """How a score is distributed over the images of two sets."""
    figure, axes = _plain(figsize=(7, 3.2))
    span = tuple(np.quantile(np.concatenate([found.usual, found.strange]), [0.002, 0.998]))
    for values, name, colour in zip((found.usual, found.strange), names, (QUIET, OUR_COLOUR), strict=True):
        axes.hist(values, bins=80, range=span, density=True, alpha=0.6, label=name, color=colour)
    axes.set(xlabel=found.score, yticks=[])
    axes.legend()
    return figure
