"""A benchmark as one HTML page that asks no network for anything: plots, tables to sort, and a viewer of pictures."""

from __future__ import annotations

import math
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from jinja2 import Environment, PackageLoader
from PIL import Image

from calotype.bench.codecs import save
from calotype.bench.results import METRICS, Results
from calotype.bench.summary import BdRow, BdTable, published_name

_PAGE = Environment(
    loader=PackageLoader("calotype.bench"), autoescape=True, trim_blocks=True, lstrip_blocks=True
).get_template("report.html.j2")


@dataclass(frozen=True)
class Version:
    """One picture by one codec, near a wanted number of bytes.

    Attributes:
        codec: The codec's name.
        quality: The quality that comes near those bytes.
        file_bytes: Size of the whole file.
        bpp: Bits of the whole file per pixel.
        psnr_db: PSNR in RGB; None where the picture came back exactly.
        image: The decoded picture, RGB.
    """

    codec: str
    quality: float
    file_bytes: int
    bpp: float
    psnr_db: float | None
    image: Image.Image


@dataclass(frozen=True)
class Exhibit:
    """One picture of the viewer.

    Attributes:
        picture: The picture's name.
        original: The picture, RGB.
        target_bpp: The rate that all versions are near.
        versions: By each codec; the first two are shown first.
    """

    picture: str
    original: Image.Image
    target_bpp: float
    versions: tuple[Version, ...]


@dataclass(frozen=True)
class _Cell:
    """What a table shows, and what it sorts by: None for the text itself, "" where a number is missing.

    `shade` is percent of full colour: above zero better, below worse.
    """

    text: str
    key: str | None = None
    note: str = ""
    shade: int = 0


@dataclass(frozen=True)
class _Row:
    codec: str
    cells: tuple[_Cell, ...]
    published: bool = False

    @property
    def style(self) -> str:
        if self.published:
            return "published"
        return "ours" if self.codec.startswith("calotype") else ""


@dataclass(frozen=True)
class _Table:
    title: str
    heads: tuple[str, ...]
    rows: list[_Row]


def report(
    results: Results, tables: Mapping[str, BdTable], plots: Mapping[str, str], exhibits: Sequence[Exhibit]
) -> str:
    """The page.

    Args:
        results: The run.
        tables: BD-rates by metric.
        plots: SVG by title; the first spans the page, the others stand in pairs.
        exhibits: Pictures of the viewer, in full in the page: a lossless file for each version and original.
    """
    return _PAGE.render(
        results=results,
        bd_tables=[_bd_table(table) for table in tables.values() if table.rows and table.anchors],
        plots={title: _uri("svg+xml", svg.encode()) for title, svg in plots.items()},
        exhibits=[_exhibit(exhibit) for exhibit in exhibits],
        timings=_timings(results),
        codecs=_codecs(results),
        points=_points(results),
    )


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def _exhibit(exhibit: Exhibit) -> dict[str, object]:
    """What the viewer reads; the original is the first of the versions."""
    width, height = exhibit.original.size
    original = _version("original", f"{width} \N{MULTIPLICATION SIGN} {height} pixels", exhibit.original)
    return {
        "name": f"{exhibit.picture}, about {exhibit.target_bpp:g} bpp",
        "width": width,
        "height": height,
        "versions": [original, *(_version(v.codec, _facts(v), v.image) for v in exhibit.versions)],
    }


def _version(codec: str, facts: str, image: Image.Image) -> dict[str, str]:
    return {"codec": codec, "facts": facts, "source": _uri("webp", save(image, "WEBP", lossless=True))}


def _facts(version: Version) -> str:
    distortion = "exact" if version.psnr_db is None else f"{version.psnr_db:.2f} dB"
    return f"quality {version.quality:g}, {version.file_bytes:,} bytes, {version.bpp:.3f} bpp, {distortion}"


def _number(value: float | None, form: str) -> _Cell:
    if value is None:
        return _Cell("", "")
    return _Cell(format(value, form).replace("-", "\N{MINUS SIGN}"), repr(value))


def _texts(*texts: str) -> tuple[_Cell, ...]:
    return tuple(map(_Cell, texts))


def _quality_form(metric: str) -> str:
    return ".4f" if metric == "ssim" else ".2f"


def _bd_table(table: BdTable) -> _Table:
    rows = [_Row(row.codec, tuple(_bd_cells(table, row)), row.published) for row in table.rows]
    return _Table(table.title, ("codec", *table.anchors), rows)


def _bd_cells(table: BdTable, row: BdRow) -> Iterator[_Cell]:
    for anchor, rate, quality in zip(table.anchors, row.bd_rate, row.bd_quality, strict=True):
        if anchor == row.codec:
            yield _Cell("0", "0", "anchor")
        else:
            note = _number(quality, f"+{_quality_form(table.metric)}").text
            yield replace(_number(rate, "+.1f"), note=note, shade=_shade(rate))


def _shade(rate_percent: float | None) -> int:
    """Full colour at half the bits and at twice the bits."""
    octaves = math.log2(1 + (rate_percent or 0) / 100)
    return round(-100 * max(-1, min(1, octaves)))


def _timings(results: Results) -> _Table:
    heads = (
        "codec", "quality", "bpp", "PSNR, dB", "encode, MP/s", "decode, MP/s",
        "encode, ms", "decode, ms", "encode, peak MB", "decode, peak MB",
    )  # fmt: skip
    rows = [
        _Row(t.codec, (
            _number(t.quality, "g"), _number(t.bpp, ".3f"), _number(t.psnr_db, ".2f"),
            _number(t.encode_mp_s, ".2f"), _number(t.decode_mp_s, ".2f"),
            _number(t.encode_ms, ".1f"), _number(t.decode_ms, ".1f"),
            _number(t.encode_peak_mb, ".0f"), _number(t.decode_peak_mb, ".0f"),
        ))
        for t in results.timings
    ]  # fmt: skip
    return _Table("Speed and memory", heads, rows)


def _codecs(results: Results) -> _Table:
    rows = [_Row(c.name, _texts("lossless" if c.lossless else "lossy", c.settings, c.version)) for c in results.codecs]
    published = [_Row(published_name(p.name), _texts("lossy", "", p.source), published=True) for p in results.published]
    return _Table("Codecs", ("codec", "kind", "settings", "version or source"), rows + published)


def _points(results: Results) -> _Table:
    rows = [
        _Row(codec.name, (_number(bpp, ".4f"), *(_number(values.get(m), _quality_form(m)) for m in METRICS)))
        for codec in results.codecs
        for bpp, values in sorted(_means(results, codec.name).items())
    ]
    return _Table("Points of the curves", ("codec", "bpp", *METRICS.values()), rows)


def _means(results: Results, codec: str) -> dict[float, dict[str, float]]:
    """The codec's curves by all metrics: at each mean bpp, the metrics that have a value there."""
    means: defaultdict[float, dict[str, float]] = defaultdict(dict)
    for metric in METRICS:
        with suppress(ValueError):  # a lossless codec has no curve
            curve = results.curve(codec, metric)
            for bpp, value in zip(curve.bpp, curve.value, strict=True):
                means[bpp][metric] = value
    return means
