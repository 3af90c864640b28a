"""`calotype train FOLDER`: codecs for pictures of any size."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from calotype import datasets
from calotype.bundle import PHOTO, Bundle
from calotype.cli.console import is_watched, refuse_options, say, shown, stderr
from calotype.datasets import Dataset
from calotype.errors import OptionError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from calotype.learn.config import Architecture, Config
    from calotype.learn.fit import Watcher
    from calotype.learn.folder import Folder
    from calotype.learn.split import Data
    from calotype.learn.train import Row
    from calotype.learn.watch import Point
    from calotype.pixels import Picture

HYPERPRIOR = "hyperprior"
"""The photo codec's architecture for small images: of the small scale, and from nothing unless told otherwise."""
NONE = "none"
MINUTES = 20.0
MOST_NAMED = 10
THE_OPTIONS = "the command's options"


@dataclass(frozen=True)
class Wish:
    """What was asked for.

    Attributes:
        sources: Folders, patterns and files; or a data set, with `arch` hyperprior.
        changes: Of the recipe: steps, minutes, batch, seed, as far as they were given.
    """

    sources: list[Path]
    out: Path
    run: Path
    arch: str
    recipe: str | None
    start: str | None
    scale: str | None
    lossless: list[Path]
    validation: list[Path]
    changes: dict[str, Any]
    device: str
    data_folder: Path | None
    size_px: int | None

    @property
    def is_set(self) -> bool:
        """Whether the source is a data set that goes by a name."""
        return str(self.sources[0]) in datasets.NAMES


def written(out: Path) -> list[Path]:
    """What a training writes: a model, its card and the card's picture."""
    return [out, out.with_suffix(".md"), out.with_name(f"{out.stem}-worst.png")]


def train_photo(wish: Wish) -> None:
    """Train a codec with a bar, and write it with its card."""
    from calotype.learn import fit
    from calotype.learn.config import VISUAL
    from calotype.learn.rates import suited

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    _check_options(wish)
    whole = datasets.load(wish.sources[0], wish.data_folder, wish.size_px) if wish.is_set else None
    plan, start, found = _plan(wish, whole)
    fabric = fit.make_fabric(wish.device, plan.recipe.batch)
    data = _data(wish, plan, found if whole is None else whole, fabric)
    if found is not None:
        weights = None if start is None else fit.weights_from(start, plan.architecture)
        plan = replace(plan, recipe=suited(plan.recipe, plan.architecture, weights, data))
    columns = (TextColumn("training"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    quiet = not (is_watched() and fabric.is_global_zero)
    shown_columns = (*columns, TextColumn("{task.fields[now]}"))
    with Progress(*shown_columns, console=stderr(), disable=quiet, speed_estimate_period=600) as progress:
        watcher = _watcher(progress) if fabric.is_global_zero else None
        finished = fit.fit(plan, data, wish.run, fabric, start, watcher)
    if not fabric.is_global_zero:
        return
    if not finished:
        say(f"calotype: stopped; {shown(wish.run)} holds the run, and the same command goes on with it")
        raise typer.Exit(130)
    say("calotype: trained; its symbols are counted and the model is written, which takes a minute or more")
    written = fit.to_bundle(wish.run, data, wish.out, start, fabric.device)
    typer.echo(f"{shown(wish.out)}: {wish.out.stat().st_size} bytes")
    if plan.recipe.objective != VISUAL:
        _say_real(written, data.judges())


def _say_real(bundle: Bundle, pictures: Sequence[Picture]) -> None:
    """Say how the model compares with other codecs in real files of these pictures, by which its card's curve goes."""
    from calotype.cli import rivals

    others = rivals.measured([picture.samples for picture in pictures])
    if others:
        ours = [(row["bpp"], row["psnr_db"]) for row in bundle.manifest.card["curve"]]
        say(f"calotype: real files of the pictures to judge by: {rivals.against(others, ours)}")


def _plan(wish: Wish, whole: Dataset | None) -> tuple[Config, str | None, Folder | None]:
    """The run, what it starts from, and the folder as it was found, unless there is none or a recipe says all."""
    from calotype.learn import config, folder

    start = None if wish.start == NONE else wish.start
    if wish.recipe is not None:
        refuse_options("--recipe", {"scale": wish.scale})
        plan = config.read(wish.recipe)
        return replace(plan, recipe=config.changed(plan.recipe, wish.changes, THE_OPTIONS)), start, None
    found = folder.inspect(_found(wish)) if whole is None else _folder_of(whole)
    if wish.arch == PHOTO and wish.start is None and wish.scale is None and found.form.channels in (1, 3):
        start = PHOTO
    if start is not None:
        refuse_options(f"--from {start}", {"scale": wish.scale})
    scale = wish.scale or (folder.SMALL if wish.arch == HYPERPRIOR else folder.BASE)
    plan = folder.plan(found, MINUTES, scale, None if start is None else _architecture(start))
    length = {"minutes": 0.0} if "steps" in wish.changes and "minutes" not in wish.changes else {}
    recipe = config.changed(plan.recipe, length | wish.changes, THE_OPTIONS)
    if not recipe.minutes and recipe.steps == folder.ENDLESS:
        raise OptionError("--minutes 0: training would not end; give some, or --steps")
    _say_found(found, recipe.crop_px, recipe.batch, start or "the principal components of the pictures")
    about = f"Trained on {found}; from {Path(start).name if start else 'nothing'}."
    card = plan.card | {"name": wish.out.stem, "description": about}
    return replace(plan, recipe=recipe, card=card), start, found


def _found(wish: Wish) -> list[Path]:
    """The files to learn from; none that this command makes."""
    from calotype.learn.data import find_pictures

    made = {path.resolve() for path in written(wish.out)}
    found = [path for path in find_pictures(wish.sources) if path.resolve() not in made]
    return [path for path in found if not path.resolve().is_relative_to(wish.run.resolve())]


def _check_options(wish: Wish) -> None:
    """Refuse what has no effect on this source."""
    if not wish.is_set:
        refuse_options("pictures of your own", {"data": wish.data_folder, "resize": wish.size_px})
        return
    name = wish.sources[0]
    if len(wish.sources) > 1:
        raise OptionError(f"the data set {name} goes alone: leave out {wish.sources[1]}")
    refuse_options(f"the data set {name}", {"lossless": wish.lossless, "validation": wish.validation})


def _architecture(start: str) -> Architecture:
    """The sizes of a model; of weights alone, those of the photo codec."""
    from calotype import library
    from calotype.learn.config import Architecture
    from calotype.learn.restore import codec_of

    return Architecture() if start.endswith(".pt") else codec_of(library.find(start)).arch


def _data(wish: Wish, plan: Config, found: Folder | Dataset | None, fabric: Fabric) -> Data:
    from calotype.learn.config import VISUAL
    from calotype.learn.samples import Form
    from calotype.learn.split import Data

    if isinstance(found, Dataset):
        return Data.of(list(found.train.images), list(found.validation.images), fabric.device)
    paths = _found(wish) if found is None else found.paths
    form = Form(plan.architecture.channels) if found is None else found.form
    least_px = 1 if wish.arch == HYPERPRIOR and plan.recipe.objective != VISUAL else plan.recipe.crop_px
    return Data.find(paths, wish.lossless, wish.validation, least_px, fabric.device, form)


def _folder_of(whole: Dataset) -> Folder:
    """A data set as a folder of pictures."""
    from calotype.learn.folder import Folder
    from calotype.learn.samples import Form

    images = whole.train.images
    return Folder([Path(whole.name)] * len(images), [], [images.shape[1:3]] * len(images), Form(images.shape[3]), {})


def _say_found(found: Folder, crop_px: int, batch: int, start: str) -> None:
    say(f"calotype: {found}")
    _say_skipped(found.unreadable)
    say(f"calotype: a model of {found.form.channels} channels from {start}; {batch} crops of {crop_px} pixels a step")


def _say_skipped(skipped: Mapping[Path, str]) -> None:
    for path, reason in list(skipped.items())[:MOST_NAMED]:
        say(f"calotype: skipped {shown(path)}: {reason}")
    if len(skipped) > MOST_NAMED:
        say(f"calotype: skipped {len(skipped)} files in all")


def _watcher(progress: Progress) -> Watcher:
    from calotype.cli import rivals
    from calotype.learn.fit import Watcher
    from calotype.learn.watch import judged

    task = progress.add_task("training", total=1.0, now="")
    others: dict[str, list[rivals.Rate]] = {}
    compared, overhead_bpp = "", 0.0

    def begun(data: Data, step: int, done: float) -> None:
        nonlocal overhead_bpp
        held = "held in memory" if data.train.held is not None else "read when drawn"
        say(f"calotype: {len(data.train)} pictures to learn from, {held}; {len(data.validation)} to judge by")
        _say_skipped(data.skipped)
        pictures = [picture.numpy() for picture in judged(list(data.validation))]
        overhead_bpp = fmean(8 * rivals.FILE_BYTES / picture[..., 0].size for picture in pictures)
        others.update(rivals.measured(pictures))
        if step:
            say(f"calotype: goes on at step {step}, {done:.0%} done")
        progress.update(task, completed=done)

    def row(row: Row) -> None:
        lowered = f", learning rate halved {row.rollbacks}x" if row.rollbacks else ""
        progress.update(task, completed=row.progress, now=f"step {row.step}, loss {row.loss:.3f}{lowered}{compared}")

    def curve(step: int, points: list[Point]) -> None:
        nonlocal compared
        ours = [(p.bpp + overhead_bpp, p.psnr_db) for p in points]
        said = rivals.against(others, ours)
        compared = f"; {said}" if said else ""
        say(f"calotype: step {step}: " + ", ".join(f"{db:.2f} dB at {bpp:.3f} bpp" for bpp, db in ours) + compared)

    return Watcher(begun, row, curve)
