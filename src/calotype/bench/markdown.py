"""The page of a benchmark that a repository can keep: `results.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calotype.bench.plots import SHOWN_PUBLISHED
from calotype.bench.results import METRICS, Results
from calotype.bench.summary import BdTable, published_name
from calotype.markdown import table

INTRO = """\
Real files, written and read back; but for the rows called published, which are taken from papers and repositories as
they stand. A point of a curve is the mean over the pictures of each picture's bpp and of each picture's quality; for
PSNR that is the literature's way. BD-rates are piecewise cubic (pchip) over the qualities that both curves reach, in
percent of the anchor's bits; negative is better than the anchor."""
MOST_NAMED = 10


def page(results: Results, tables: Mapping[str, BdTable], plots: Mapping[str, str], command: str) -> str:
    """A page of Markdown; `plots` gives each plot's path under its title."""
    parts = [
        "# Results",
        INTRO,
        f"```sh\n{command}\n```",
        _left_out(results),
        "; ".join(f"{fact}: {value}" for fact, value in results.machine.items()) + ".",
        "## Bits at equal quality",
        *(_bd(tables[metric]) for metric in METRICS if tables[metric].rows and tables[metric].anchors),
        "\n\n".join(f"![{title}]({path})" for title, path in plots.items()),
        "## Speed and memory",
        _speed(results),
        "## Points",
        *(_points(results, codec.name) for codec in results.codecs if not codec.lossless),
        "## Lossless",
        _lossless(results),
        "## Codecs",
        table(("codec", "settings", "version"), ((c.name, c.settings, c.version) for c in results.codecs), words=1),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"


def _bd(bd: BdTable) -> str:
    shown = {published_name(name) for name in SHOWN_PUBLISHED}
    rows = ((r.codec, *map(_percent, r.bd_rate)) for r in bd.rows if not r.published or r.codec in shown)
    return f"### By {bd.title}\n\n" + table((f"BD-rate, %, {bd.metric}", *bd.anchors), rows, words=1)


def _speed(results: Results) -> str:
    if not results.timings:
        return "Not measured in this run."
    head = ("codec", "quality", "bpp", "encode ms", "decode ms", "encode MP/s", "decode MP/s", "encode MB", "decode MB")
    rows = (
        (
            t.codec, f"{t.quality:g}", f"{t.bpp:.2f}", f"{t.encode_ms:.1f}", f"{t.decode_ms:.1f}",
            f"{t.encode_mp_s:.2f}", f"{t.decode_mp_s:.2f}", *map(_whole, (t.encode_peak_mb, t.decode_peak_mb)),
        )
        for t in results.timings
    )  # fmt: skip
    note = (
        "Medians; the codecs in turn, after all other work of the benchmark. MB: peak memory of a process that encodes "
        "or decodes one picture, of which Python and the benchmark's libraries take some 80."
    )
    return f"{note}\n\n{table(head, rows, words=1)}"


def _points(results: Results, codec: str) -> str:
    try:
        curves = {metric: results.curve(codec, metric) for metric in METRICS if results.pictures_of(metric)}
    except ValueError:  # one quality only
        return ""
    head = ("quality", *(word for metric in curves for word in ("bpp", METRICS[metric])))
    columns = [column for curve in curves.values() for column in (curve.bpp, curve.value)]
    rows = (
        (f"{quality:g}", *(f"{value:.4f}" for value in values))
        for quality, *values in zip(results.qualities(codec), *columns, strict=True)
    )
    return f"### {codec}\n\n" + table(head, rows, words=0)


def _left_out(results: Results) -> str:
    """Which pictures are in no curve."""
    lines = (
        f"Not in the curves of {METRICS[metric]}, for some codec gave them back exactly or they are too small: "
        + _some(without)
        for metric in METRICS
        if (without := [name for name in results.pictures if name not in results.pictures_of(metric)])
    )
    return "\n\n".join(lines)


def _some(names: Sequence[str]) -> str:
    """The first of many names."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _lossless(results: Results) -> str:
    rows: list[tuple[str, str]] = []
    for codec in results.codecs:
        rates = [p.bpp for p in results.points if p.codec == codec.name]
        if codec.lossless and rates:
            rows.append((codec.name, f"{sum(rates) / len(rates):.3f}"))
    return table(("codec", "bpp"), rows, words=1) if rows else ""
