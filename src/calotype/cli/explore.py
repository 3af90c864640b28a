"""`calotype explore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from calotype import datasets, library
from calotype.cli.console import is_watched, print_table, shown, stderr
from calotype.errors import InputError, OptionError
from calotype.small import small_model

LOG = "log.jsonl"


def explore(
    model: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A model of small images.")],
    source: Annotated[
        Path, typer.Argument(metavar="DATA", help="Its images: mnist, fashion-mnist, digits, or a folder of pictures.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page and its pictures.")],
    run: Annotated[
        Path | None, typer.Option(help="Folder of the model's run; NAME.run beside the model if not given.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Images that the model should find strange.")
    ] = None,
    probe_images: Annotated[
        int, typer.Option(min=100, help="Training images that recognition learns from; more take longer.")
    ] = 10_000,
    data: Annotated[Path | None, typer.Option(help="Folder with the IDX files of a named data set.")] = None,
    resize: Annotated[
        int | None,
        typer.Option(min=1, max=datasets.MAX_SIDE_PX, help="Side of the squares that a folder's pictures become."),
    ] = None,
) -> None:
    """Show what a model of small images has learned: a page with pictures, index.html.

    What comes back and what is lost, loss curves, latents in a plane, what each does and costs, samples; and what
    latents are good for: recognition, denoising (of a model trained with noise), and, with --against, telling strange
    images.

    Needs the extra "bench" of the package.
    """
    try:
        from calotype.explore import page, sections
        from calotype.explore.study import study_of
    except ModuleNotFoundError as error:
        raise OptionError(f"calotype explore needs {error.name}: pip install 'calotype[bench]'") from error
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out {out}: is a file; name a folder")
    study = study_of(small_model(library.find_any(model)))
    loaded = datasets.load(source, data, resize)
    study.check(loaded.test.images, loaded.name)
    strange = None
    if against is not None:
        found = datasets.load_test(against, data if str(against) in datasets.NAMES else None, resize)
        study.check(found.images, str(against))
        strange = str(against), found.images
    view = sections.View(study, loaded, _log(run, study.file.path), strange, probe_images)
    progress = track(sections.SECTIONS, "looking", console=stderr(), disable=not is_watched())
    made = [section(view) for section in progress]
    shown_sections = [part for part in made if not isinstance(part, str)]
    text = page.html(study.file, loaded.name, shown_sections, [part for part in made if isinstance(part, str)])
    page.write(out, text, shown_sections)
    for section in shown_sections:
        if section.rows:
            print_table(section.rows, section.heads)
            typer.echo()
    typer.echo(f"page: {shown(out / page.PAGE)}")


def _log(run: Path | None, model: Path) -> Path | None:
    """The log of a model's run, if there is one."""
    log = (run or model.with_suffix(".run")) / LOG
    if run is not None and not log.is_file():
        raise InputError(f"--run {run}: no {LOG} there")
    return log if log.is_file() else None
