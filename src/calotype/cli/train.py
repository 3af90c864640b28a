"""`calotype train`."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from calotype import datasets
from calotype.bundle import PHOTO, SUFFIX
from calotype.cli.console import STDERR, refuse_options, say, shown
from calotype.cli.train_small import ARCHS, train_small
from calotype.errors import OptionError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from calotype.learn.config import Config
    from calotype.learn.fit import Data, Watcher
    from calotype.learn.train import Row
    from calotype.learn.watch import Point

MOST_NAMED = 10


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
            "--from", help="Start from this model (its name, FILE.calomodel) or, with --arch photo, weights (FILE.pt)."
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
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all; the recipe's if not given.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Crops a step.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of all that is random.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    arch: Annotated[
        str, typer.Option(help=f"photo, for pictures of any size; for small images of one size {', '.join(ARCHS)}.")
    ] = PHOTO,
    minutes: Annotated[float | None, typer.Option(min=0, help="Of small images: train no longer than this.")] = None,
    data: Annotated[
        Path | None, typer.Option(help=f"Of {', '.join(datasets.NAMES[1:])}: folder with the IDX files.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Of small images: cross-validate first, with so many trainings more.")
    ] = None,
    resize: Annotated[int | None, typer.Option(min=1, help="Of small images: sides to resize a folder's to.")] = None,
) -> None:
    """Train a model on your own pictures, or on small images of one size: mnist, fashion-mnist, digits, a folder.

    Ctrl-C saves, and the same command goes on where it was; once at its end, it writes the model. Under torchrun, all
    its processes share each batch. Needs the extra "learn" of the package.
    """
    if out.suffix != SUFFIX:
        raise OptionError(f"--out {out}: the name of a model ends in {SUFFIX}")
    try:
        from calotype.learn import fit
    except ModuleNotFoundError as error:
        raise OptionError(f"calotype train needs {error.name}: pip install 'calotype[learn]'") from error
    if arch != PHOTO:
        gpu = device if device not in ("auto", "cpu") else None  # so small that a CPU does
        refuse_options(
            f"--arch {arch}", {"steps": steps, "lossless": lossless, "validation": validation, "device": gpu}
        )
        given = {"batch": batch, "seed": seed, "minutes": minutes}
        changes = {name: value for name, value in given.items() if value is not None}
        train_small(pictures, arch, out, recipe, start, run, changes, data, resize, folds)
        return
    refuse_options(f"--arch {PHOTO}", {"minutes": minutes, "data": data, "resize": resize, "folds": folds})
    plan = _plan(recipe, out, {"steps": steps, "batch": batch, "seed": seed})
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = fit.make_fabric(device, plan.recipe.batch)
    found = fit.Data.find(pictures, lossless or [], validation or [], plan.recipe.crop_px, fabric.device)
    _train_photo(plan, found, out, run or out.with_suffix(".run"), fabric, start)


def _train_photo(plan: Config, found: Data, out: Path, folder: Path, fabric: Fabric, start: str | None) -> None:
    """Train a codec for pictures of any size, with a bar, and write it."""
    from calotype.learn import fit

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    quiet = not (STDERR.is_terminal and fabric.is_global_zero)
    with Progress(*columns, console=STDERR, disable=quiet, speed_estimate_period=600) as progress:
        watcher = _watcher(progress, plan) if fabric.is_global_zero else None
        finished = fit.fit(plan, found, folder, fabric, start, watcher)
    if not fabric.is_global_zero:
        return
    if not finished:
        say(f"calotype: stopped; {shown(folder)} holds the run, and the same command goes on with it")
        raise typer.Exit(130)
    fit.to_bundle(folder, found, out, start, fabric.device)
    typer.echo(f"{shown(out)}: {out.stat().st_size} bytes")


def _plan(recipe: str | None, out: Path, changes: dict[str, int | None]) -> Config:
    from calotype.learn import config

    plan = config.Config() if recipe is None else config.read(recipe)
    given = {name: value for name, value in changes.items() if value is not None}
    card = plan.card if recipe is not None else {**plan.card, "name": out.stem}
    return replace(plan, recipe=replace(plan.recipe, **given), card=card)


def _watcher(progress: Progress, plan: Config) -> Watcher:
    from calotype.learn.fit import Watcher

    task = progress.add_task("training", total=plan.recipe.steps, now="")

    def begun(data: Data, step: int) -> None:
        held = "held in memory" if data.train.held is not None else "read when drawn"
        say(f"calotype: {len(data.train)} pictures to learn from, {held}; {len(data.validation)} to judge by")
        for path, reason in list(data.skipped.items())[:MOST_NAMED]:
            say(f"calotype: skipped {shown(path)}: {reason}")
        if len(data.skipped) > MOST_NAMED:
            say(f"calotype: skipped {len(data.skipped)} files in all")
        if step:
            say(f"calotype: goes on at step {step}")
        progress.update(task, completed=step)

    def row(row: Row) -> None:
        lowered = f", learning rate halved {row.rollbacks}x" if row.rollbacks else ""
        progress.update(task, completed=row.step, now=f"loss {row.loss:.3f}{lowered}")

    def curve(step: int, points: list[Point]) -> None:
        say(f"calotype: step {step}: " + ", ".join(f"{p.psnr_db:.2f} dB at {p.bpp:.3f} bpp" for p in points))

    return Watcher(begun, row, curve)
