"""`calotype bench`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from calotype import datasets
from calotype.cli.bench_small import bench_small
from calotype.cli.console import is_watched, print_table, refuse_options, stderr
from calotype.errors import OptionError
from calotype.threads import cores

if TYPE_CHECKING:
    from calotype.bench.results import Results

DEFAULT_CODECS = "calotype,jpeg,webp,avif,jxl,jp2,png"


def bench(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGES...", help="Pictures, and folders of pictures; or mnist, fashion-mnist, digits."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results, and for the cache.")],
    codecs: Annotated[
        str, typer.Option(help="Which to compare; also webp-lossless, klt, huffman, deflate.")
    ] = DEFAULT_CODECS,
    reference: Annotated[
        Path | None, typer.Option(help="Folder of published curves of these very pictures, to compare with.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Four pictures at four qualities.")] = False,
    slowest: Annotated[
        bool, typer.Option("--slowest", help="AVIF, JPEG XL and calotype slowly, too: seconds a picture.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Processes; 0 for one a core.")] = 0,
    model: Annotated[
        list[str] | None,
        typer.Option("-m", "--model", help="Another model to compare; again for more."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Of a data set: folder with its IDX files.")] = None,
) -> None:
    """Compare codecs on pictures: real files, sizes, qualities and times; writes a report to look at.

    Of a data set of small images it writes one table, small.md, and its plot: models, lossy or lossless, and general
    codecs on files and on a mosaic.

    Started again after a stop, it goes on where it was. Needs the extra "bench" of the package.
    """
    try:
        from calotype.bench import run
    except ModuleNotFoundError as error:
        raise OptionError(f"calotype bench needs {error.name}: pip install 'calotype[bench]'") from error
    if str(images[0]) in datasets.NAMES:
        chosen = None if codecs == DEFAULT_CODECS else codecs
        ignored = {"codecs": chosen, "reference": reference, "quick": quick, "slowest": slowest, "jobs": jobs}
        refuse_options(f"the data set {images[0]}", ignored)
        bench_small(images, out, model or [], data)
        return
    if data is not None:
        raise OptionError(f"--data goes with a data set: {', '.join(datasets.NAMES)}")
    if quick and reference is not None:
        raise OptionError("--quick takes a few pictures, and --reference holds for all of them: leave one out")
    if reference is not None and not reference.is_dir():
        raise OptionError(f"--reference {reference}: no such folder")
    pictures = run.find_pictures(images)
    plan = run.Plan(
        pictures[: run.QUICK_PICTURES] if quick else pictures,
        run.choose(codecs, slowest=slowest, models=model or []),
        out,
        reference,
        run.QUICK_QUALITIES if quick else None,
        jobs or cores(),
        _command(images, out, codecs, reference, model or [], {"--quick": quick, "--slowest": slowest}),
    )
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), disable=not is_watched()) as progress:
        task = progress.add_task("measuring", total=None)
        results = run.run(plan, lambda n: progress.update(task, total=n), lambda: progress.advance(task))
    _print(results)
    typer.echo(f"report: {out / 'report.html'}")


def _command(
    images: list[Path], out: Path, codecs: str, reference: Path | None, models: list[str], flags: dict[str, bool]
) -> str:
    """The command line for a page that others read: folders go by their names alone."""
    words = ["calotype", "bench", *(path.resolve().name for path in images), "--codecs", codecs]
    words += [word for model in models for word in ("--model", Path(model).name)]
    if reference is not None:
        words += ["--reference", "/".join(reference.resolve().parts[-2:])]
    return shlex.join([*words, *(flag for flag, given in flags.items() if given), "--out", out.name])


def _print(results: Results) -> None:
    """BD-rates of the codecs that ran, by PSNR."""
    from calotype.bench.summary import bd_table

    table = bd_table(results, "psnr_db")
    rows = [
        (row.codec, *("-" if v is None else f"{v:+.1f}%" for v in row.bd_rate))
        for row in table.rows
        if not row.published
    ]
    if rows and table.anchors:
        print_table(rows, ("BD-rate (PSNR) of, against", *table.anchors))
