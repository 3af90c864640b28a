"""`calotype train DATA --arch NAME`: models of small images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from calotype import datasets
from calotype.bundle import SUFFIX, read_file
from calotype.cli.console import is_watched, say, shown, stderr
from calotype.datasets import Dataset
from calotype.errors import OptionError
from calotype.markdown import table

if TYPE_CHECKING:
    from calotype.learn.bitsback.fit import Plan
    from calotype.learn.textbook.config import Config
    from calotype.learn.textbook.loop import Row

LOSSLESS_ARCHS = ("lossless-vae", "hvae")
PCA = "pca"
ARCHS = (PCA, "dense-ae", "conv-ae", "dense-vae", "conv-vae", "vae-gan", *LOSSLESS_ARCHS)
"""As in `calotype.learn.textbook.config` and `calotype.learn.bitsback.fit`, which need torch to be imported."""


def train_small(
    sources: list[Path],
    arch: str,
    out: Path,
    recipe: str | None,
    start: str | None,
    folder: Path,
    changes: dict[str, Any],
    data_folder: Path | None,
    size_px: int | None,
    folds: int | None,
) -> None:
    """Train a model of small images, and write it with its card."""
    if len(sources) != 1:
        raise OptionError(f"--arch {arch} takes one data set or folder, not {len(sources)}")
    data = datasets.load(sources[0], data_folder, size_px)
    recipe_path = None if recipe is None else Path(recipe)
    if start is not None and arch in (PCA, *LOSSLESS_ARCHS):
        raise OptionError(f"--from has no effect with --arch {arch}: leave it out")
    if arch in LOSSLESS_ARCHS:
        _lossless(data, arch, out, folder, recipe_path, changes, folds)
    else:
        _lossy(data, arch, out, folder, recipe_path, start, changes, folds)
    typer.echo(f"{shown(out)}: {out.stat().st_size} bytes")


def _lossy(
    data: Dataset,
    arch: str,
    out: Path,
    folder: Path,
    recipe: Path | None,
    start: str | None,
    changes: dict[str, Any],
    folds: int | None,
) -> None:
    """Train a textbook model."""
    from calotype.learn.textbook import fit

    def planned(part: Dataset) -> Config:
        return fit.plan_of(arch, recipe, part, out.stem, changes)

    def fold_loss(part: Dataset, place: Path) -> float:
        _train(planned(part), part, place, start)
        return fit.validation_loss(place)

    judged = _cross_validated(data, folds, folder, fold_loss)
    plan = planned(data)
    _train(replace(plan, card=plan.card | judged), data, folder, start)
    fit.to_bundle(folder, data, out)


def _cross_validated(
    data: Dataset, folds: int | None, folder: Path, judge: Callable[[Dataset, Path], float]
) -> dict[str, Any]:
    """The table of the folds' validation losses, shown; and what the card says of it, nothing without folds.

    Args:
        data: Its training and validation parts are shared out.
        folds: How many, if any.
        folder: Each fold's run is in a folder there.
        judge: Trains on a fold, in a folder; its validation loss.
    """
    if folds is None:
        return {}
    parts = enumerate(datasets.folds(data, folds), 1)
    losses = [judge(part, folder / f"fold-{number}") for number, part in parts]
    mean, deviation = np.mean(losses), np.std(losses, ddof=1)
    rows = [(f"{number}", f"{loss:.6g}") for number, loss in enumerate(losses, 1)]
    rows += [("mean", f"{mean:.6g}"), ("standard deviation", f"{deviation:.2g}")]
    typer.echo(table(("fold", "validation loss"), rows, words=1))
    return {"folds": f"{folds}: validation loss {mean:.6g}, standard deviation {deviation:.2g}"}


def _begun(data: Dataset) -> Progress:
    say(f"calotype: {len(data.train)} images to learn from, {len(data.validation)} to judge by")
    columns = (TextColumn("training"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[now]}"))
    return Progress(*columns, console=stderr(), disable=not is_watched())


def _check_finished(finished: bool, folder: Path) -> None:
    if not finished:
        say(f"calotype: stopped; {shown(folder)} holds the run, and the same command goes on with it")
        raise typer.Exit(130)


def _train(plan: Config, data: Dataset, folder: Path, start: str | None) -> None:
    """Train a textbook model, with a bar."""
    from calotype.learn.textbook import fit

    with _begun(data) as progress:
        task = progress.add_task("training", total=1.0, now="")

        def report(row: Row) -> None:
            progress.update(task, completed=row.progress, now=f"epoch {row.epoch}, loss {row.validation:.5g}")

        finished = fit.fit(plan, data, folder, start, report)
    _check_finished(finished, folder)


def _lossless(
    data: Dataset,
    arch: str,
    out: Path,
    folder: Path,
    recipe: Path | None,
    changes: dict[str, Any],
    folds: int | None,
) -> None:
    """Train a model for `calotype pack --lossless`."""
    from calotype.learn.bitsback import fit

    def planned(part: Dataset) -> Plan:
        return fit.plan_of(arch, recipe, part, out.stem, changes)

    def fold_bpd(part: Dataset, place: Path) -> float:
        draft = place / f"fold{SUFFIX}"
        _train_lossless(planned(part), part, place, draft)
        return read_file(draft).card["validation_bpd"]

    judged = _cross_validated(data, folds, folder, fold_bpd)
    plan = planned(data)
    _train_lossless(replace(plan, card=plan.card | judged), data, folder, out)


def _train_lossless(plan: Plan, data: Dataset, folder: Path, out: Path) -> None:
    """Train a bits-back model, with a bar, and write it."""
    from calotype.learn.bitsback import fit

    with _begun(data) as progress:
        task = progress.add_task("training", total=1.0, now="")

        def report(row: fit.Row, done: float) -> None:
            progress.update(task, completed=done, now=f"step {row.step}, {row.validation_bpd:.4f} bits per dimension")

        finished = fit.fit(plan, data, folder, out, report)
    _check_finished(finished, folder)
