"""`calotype train DATA --arch NAME`: models of small images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from calotype import datasets
from calotype.cli.console import STDERR, say, shown
from calotype.datasets import Dataset
from calotype.errors import OptionError

if TYPE_CHECKING:
    from calotype.learn.textbook.loop import Row

LOSSLESS_ARCHS = ("lossless-vae", "hvae")
ARCHS = ("pca", "dense-ae", "conv-ae", "dense-vae", "conv-vae", *LOSSLESS_ARCHS)
"""As in `calotype.learn.textbook.config` and `calotype.learn.bitsback.fit`, which need torch to be imported."""


def train_small(
    sources: list[Path],
    arch: str,
    out: Path,
    recipe: str | None,
    start: str | None,
    run: Path | None,
    changes: dict[str, Any],
    data_folder: Path | None,
    size_px: int | None,
) -> None:
    """Train a model of small images, and write it with its card."""
    if len(sources) != 1:
        raise OptionError(f"--arch {arch} takes one data set or folder, not {len(sources)}")
    data = datasets.load(sources[0], data_folder, size_px)
    if arch in LOSSLESS_ARCHS:
        if recipe is not None or start is not None:
            raise OptionError(f"--recipe and --from have no effect with --arch {arch}: leave them out")
        _train_lossless(data, arch, out, run or out.with_suffix(".run"), changes)
        return
    from calotype.learn.textbook import fit

    plan = fit.plan_of(arch, None if recipe is None else Path(recipe), data, out.stem, changes)
    folder = run or out.with_suffix(".run")
    with _begun(data) as progress:
        task = progress.add_task("training", total=1.0, now="")

        def report(row: Row) -> None:
            progress.update(task, completed=row.progress, now=f"epoch {row.epoch}, loss {row.validation:.5g}")

        finished = fit.fit(plan, data, folder, start, report)
    _check_finished(finished, folder)
    fit.to_bundle(folder, data, out)
    typer.echo(f"{shown(out)}: {out.stat().st_size} bytes")


def _begun(data: Dataset) -> Progress:
    say(f"calotype: {len(data.train)} images to learn from, {len(data.validation)} to judge by")
    columns = (TextColumn("training"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[now]}"))
    return Progress(*columns, console=STDERR, disable=not STDERR.is_terminal)


def _check_finished(finished: bool, folder: Path) -> None:
    if not finished:
        say(f"calotype: stopped; {shown(folder)} holds the run, and the same command goes on with it")
        raise typer.Exit(130)


def _train_lossless(data: Dataset, arch: str, out: Path, folder: Path, changes: dict[str, Any]) -> None:
    """Train a model for `calotype pack --lossless`."""
    from calotype.learn.bitsback import fit

    plan = fit.plan_of(arch, data, out.stem, changes)
    with _begun(data) as progress:
        task = progress.add_task("training", total=1.0, now="")

        def report(row: fit.Row, done: float) -> None:
            progress.update(task, completed=done, now=f"step {row.step}, {row.validation_bpd:.4f} bits per dimension")

        finished = fit.fit(plan, data, folder, out, report)
    _check_finished(finished, folder)
    typer.echo(f"{shown(out)}: {out.stat().st_size} bytes")
