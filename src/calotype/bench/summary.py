"""BD-rates of every codec against every anchor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from calotype.bench.bd_rate import Curve, bd_psnr, bd_rate
from calotype.bench.codecs import CODECS
from calotype.bench.results import METRICS, Results

ANCHORS = ("JPEG", "WebP", "AVIF", "AVIF (PSNR)", "AVIF (slowest)", "AVIF (PSNR, slowest)")
PUBLISHED_ANCHORS = ("WebP", "BPG-444-x265", "AV1-libaom-444", "VTM-9.1", "VTM-18.0")


@dataclass(frozen=True)
class BdRow:
    """One codec against every anchor; None where the curves have nothing in common.

    Attributes:
        codec: The codec's name.
        bd_rate: Difference in bits at equal quality, percent, for each anchor; below zero, the codec is smaller.
        bd_quality: Difference in quality at equal bits, in units of the metric; above zero, the codec is better.
        published: Whether the curve was taken from the literature.
    """

    codec: str
    bd_rate: tuple[float | None, ...]
    bd_quality: tuple[float | None, ...]
    published: bool


@dataclass(frozen=True)
class BdTable:
    """The Bjontegaard differences by one metric."""

    metric: str
    title: str
    anchors: tuple[str, ...]
    rows: tuple[BdRow, ...]


def published_name(name: str) -> str:
    """A published curve as tables call it, for some codecs are measured here, too."""
    return f"{name} (published)"


def bd_table(results: Results, metric: str) -> BdTable:
    """Every codec of a run, and every published curve, against the anchors that are there."""
    measured = {curve.name: curve for curve in curves(results, metric)}
    published = {published_name(p.name): p.curve for p in results.published if p.metric == metric}
    models = [codec.name for codec in results.codecs if codec.name not in CODECS]
    wanted = [*ANCHORS, *models, *map(published_name, PUBLISHED_ANCHORS)]
    every = measured | published
    anchors = [name for name in wanted if name in every]

    def row(name: str, curve: Curve) -> BdRow:
        differences = [tuple(_or_none(bd, every[anchor], curve) for anchor in anchors) for bd in (bd_rate, bd_psnr)]
        return BdRow(name, *differences, published=name in published)

    rows = tuple(row(name, curve) for name, curve in every.items())
    return BdTable(metric, METRICS[metric], tuple(anchors), rows)


def bd_tables(results: Results) -> dict[str, BdTable]:
    """A table for each metric."""
    return {metric: bd_table(results, metric) for metric in METRICS}


def curves(results: Results, metric: str) -> list[Curve]:
    """The curves of the codecs that have one by this metric: lossy ones, with two qualities or more."""
    found: list[Curve] = []
    for codec in results.codecs:
        try:
            found.append(results.curve(codec.name, metric))
        except ValueError:  # noqa: PERF203 (lossless, or too few qualities)
            continue
    return found


def _or_none(bd: Callable[[Curve, Curve], float], anchor: Curve, test: Curve) -> float | None:
    try:
        return bd(anchor, test)
    except ValueError:
        return None
