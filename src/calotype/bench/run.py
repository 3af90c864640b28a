"""A whole benchmark: measure, time, and write results, plots, page and report."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from calotype.bench import exhibits, markdown, pace, plots, summary
from calotype.bench.codecs import FAMILIES, Codec, model_codecs
from calotype.bench.measure import Cache, content, digest, jobs_of, measure_all
from calotype.bench.report import report
from calotype.bench.results import CodecInfo, Point, Results, Timing, read_published
from calotype.errors import OptionError
from calotype.threads import cores
from calotype.whole import write_whole

QUICK_PICTURES, QUICK_QUALITIES = 4, 4
SUFFIXES = {".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".ppm", ".avif", ".jp2"}
"""What is taken from a folder."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        pictures: The pictures; their names must differ.
        codecs: What measures them.
        out: Folder for everything that is written, the cache too.
        reference: Folder of published curves of the same pictures.
        qualities: At most so many of each codec's sweep; None for all.
        workers: Processes that measure at once.
        command: The command line, for the page.
    """

    pictures: tuple[Path, ...]
    codecs: tuple[Codec, ...]
    out: Path
    reference: Path | None = None
    qualities: int | None = None
    workers: int = 1
    command: str = "calotype bench"


def choose(names: str, *, slowest: bool, models: Sequence[str] = ()) -> tuple[Codec, ...]:
    """The codecs that a comma-separated list of families names, and models by their names or files.

    Raises:
        OptionError: A name is not known.
    """
    families = [name.strip() for name in names.split(",")]
    for name in families:
        if name not in FAMILIES:
            raise OptionError(f"--codecs {name!r} is not one of {', '.join(FAMILIES)}")
    chosen = [codec for name in dict.fromkeys(families) for codec in FAMILIES[name] if slowest or not codec.slow]
    own = [codec for model in dict.fromkeys(models) for codec in model_codecs(model, slowest=slowest)]
    return (*chosen, *own)


def find_pictures(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Files, and the pictures directly inside folders, by name.

    Raises:
        OptionError: There are none, or two have one name.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise OptionError(f"{path}: no such file or folder")
    if not found:
        raise OptionError(f"no picture in {', '.join(map(str, paths))}")
    names = [path.name for path in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise OptionError(f"two pictures are called {min(twice)}: rename one, for results go by name")
    return tuple(found)


def run(plan: Plan, total: Callable[[int], None], advance: Callable[[], None]) -> Results:
    """Measure what the cache does not hold, then write everything into `plan.out`.

    Args:
        plan: What to measure.
        total: Is told the number of measurements first.
        advance: Is called after each.
    """
    published = read_published(plan.reference) if plan.reference else ()
    plan.out.mkdir(parents=True, exist_ok=True)
    cache = Cache(plan.out / "cache.jsonl")
    jobs = jobs_of(plan.pictures, plan.codecs, plan.qualities)
    total(len(jobs))
    points: list[Point] = []
    for point in measure_all(jobs, cache, plan.workers):
        points.append(point)
        advance()
    infos = tuple(CodecInfo(c.name, c.settings, c.version(), c.lossless) for c in plan.codecs)
    order = {(job.picture.name, job.codec, job.quality): i for i, job in enumerate(jobs)}
    points.sort(key=lambda p: order[p.picture, p.codec, p.quality])
    results = Results(machine(), infos, tuple(points), (), published)
    results = replace(results, timings=_timings(results, plan, cache))
    write(results, plan, cache)
    return results


def machine() -> dict[str, str]:
    """Facts about this machine and its Python that results depend on."""
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": f"{cores()}",
        "threads": f"each codec's default, up to {cores()}",
        "Python": platform.python_version(),
        "numpy": version("numpy"),
        "onnxruntime": version("onnxruntime"),
        "ssimulacra2": version("ssimulacra2"),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _timings(results: Results, plan: Plan, cache: Cache) -> tuple[Timing, ...]:
    """Times of all codecs from one pass, or that pass's from the cache: times of two passes do not compare."""
    contents = [content(path) for path in plan.pictures[: pace.PICTURES]]
    key = digest("timings", results.machine, results.codecs, contents, pace.qualities(results))
    rows = cache.get(key)
    if rows is None:
        rows = [asdict(timing) for timing in pace.timings(results, plan.pictures)]
        cache.put(key, rows)
    return tuple(Timing(**row) for row in rows)


def write(results: Results, plan: Plan, cache: Cache) -> None:
    """Results as JSON and CSV, then plots, Markdown and the report."""
    write_whole(plan.out / "results.json", results.to_json().encode())
    write_whole(plan.out / "results.csv", results.to_csv().encode())
    tables = summary.bd_tables(results)
    folder = plan.out / "plots"
    folder.mkdir(exist_ok=True)
    svgs: dict[str, str] = {}
    for name, figure in plots.draw(results, tables).items():
        svg = plots.rendered(figure, "svg")
        svgs[plots.TITLES[name]] = svg.decode()
        write_whole(folder / f"{name}.svg", svg)
        write_whole(folder / f"{name}.png", plots.rendered(figure, "png"))
    shown = exhibits.exhibits(results, plan.pictures, plan.out / "exhibits", cache)
    links = {title: f"plots/{name}.svg" for name, title in plots.TITLES.items() if title in svgs}
    texts = {
        "results.md": markdown.page(results, tables, links, plan.command),
        "report.html": report(results, tables, svgs, shown),
    }
    for name, text in texts.items():
        write_whole(plan.out / name, text.encode())
