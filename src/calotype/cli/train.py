"""`calotype train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calotype import datasets
from calotype.bundle import PHOTO, SUFFIX
from calotype.cli.console import refuse_options
from calotype.cli.files import Job, check_target
from calotype.cli.train_photo import HYPERPRIOR, MINUTES, Wish, train_photo, written
from calotype.cli.train_small import ARCHS, train_small
from calotype.errors import OptionError


def train(
    pictures: Annotated[
        list[Path],
        typer.Argument(metavar="PICTURES...", help="Folders, patterns (quoted) and pictures; or a data set's name."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help=f"The model to write, NAME{SUFFIX}.")],
    recipe: Annotated[
        str | None, typer.Option(help="A recipe that comes with calotype (photo, visual), or a JSON file of your own.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Start from this model (its name, FILE.calomodel), weights (FILE.pt), or none; "
            "photo by default for grey and colour, without --recipe.",
        ),
    ] = None,
    lossless: Annotated[
        list[Path] | None, typer.Option(help="Lossless pictures, for the highest qualities; may be given again.")
    ] = None,
    validation: Annotated[
        list[Path] | None, typer.Option(help="Pictures to judge by; one in 20 of the others if not given.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of checkpoint and log; OUT with .run at its end if not given.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Train so many steps.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Crops a step.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of all that is random.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    arch: Annotated[
        str,
        typer.Option(help=f"photo, for pictures of any size; for small images {', '.join((HYPERPRIOR, *ARCHS))}."),
    ] = PHOTO,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help=f"Train so long; {MINUTES:g} if neither this, --steps nor --recipe is given."),
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="With --from none: base, the size of photo, or small, for short times.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help=f"Of {', '.join(datasets.NAMES[1:])}: folder with the IDX files.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Of small images: cross-validate first, with so many trainings more.")
    ] = None,
    resize: Annotated[int | None, typer.Option(min=1, help="Of small images: sides to resize a folder's to.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that exists, and its card.")] = False,
) -> None:
    """Train a codec on your own pictures, or a model of small images: mnist, fashion-mnist, digits, a folder.

    Without --recipe it looks at the folder and decides. Ctrl-C saves, and the same command goes on where it was;
    once at its end, it writes the model. Under torchrun, all its processes share each batch. It needs the extra
    "learn" of the package.
    """
    if out.suffix != SUFFIX:
        raise OptionError(f"--out {out}: the name of a model ends in {SUFFIX}")
    try:
        import calotype.learn.fit  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ModuleNotFoundError as error:
        raise OptionError(f"calotype train needs {error.name}: pip install 'calotype[learn]'") from error
    where = run or out.with_suffix(".run")
    if not where.exists():  # else what is there is the run's own
        for target in written(out):
            check_target(Job(None, target), overwrite=overwrite)
    given = {"minutes": minutes, "batch": batch, "seed": seed}
    changes = {name: value for name, value in given.items() if value is not None}
    if arch in (PHOTO, HYPERPRIOR):
        if arch == PHOTO:
            refuse_options(f"--arch {PHOTO}", {"data": data, "resize": resize})
        refuse_options(f"--arch {arch}", {"folds": folds})
        changes |= {} if steps is None else {"steps": steps}
        folders = lossless or [], validation or []
        train_photo(Wish(pictures, out, where, arch, recipe, start, scale, *folders, changes, device, data, resize))
        return
    gpu = device if device not in ("auto", "cpu") else None  # so small that a CPU does
    refused = {"steps": steps, "lossless": lossless, "validation": validation, "device": gpu, "scale": scale}
    refuse_options(f"--arch {arch}", refused)
    train_small(pictures, arch, out, recipe, start, where, changes, data, resize, folds)
