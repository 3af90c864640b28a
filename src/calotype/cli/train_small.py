"""`calotype train DATA --arch NAME`: models of small images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from calotype import datasets
from calotype.cli.console import STDERR, say, shown
from calotype.errors import OptionError

if TYPE_CHECKING:
    from calotype.learn.textbook.loop import Row

ARCHS = ("pca", "dense-ae", "conv-ae", "dense-vae", "conv-vae")
"""As in `calotype.learn.textbook.config`, which needs torch to be imported beside it."""


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
    from calotype.learn.textbook import fit

    data = datasets.load(sources[0], data_folder, size_px)
    plan = fit.plan_of(arch, None if recipe is None else Path(recipe), data, out.stem, changes)
    folder = run or out.with_suffix(".run")
    say(f"calotype: {len(data.train)} images to learn from, {len(data.validation)} to judge by")
    columns = (TextColumn("training"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[now]}"))
    with Progress(*columns, console=STDERR, disable=not STDERR.is_terminal) as progress:
        task = progress.add_task("training", total=1.0, now="")

        def report(row: Row) -> None:
            progress.update(task, completed=row.progress, now=f"epoch {row.epoch}, loss {row.validation:.5g}")

        finished = fit.fit(plan, data, folder, None if start is None else Path(start), report)
    if not finished:
        say(f"calotype: stopped; {shown(folder)} holds the run, and the same command goes on with it")
        raise typer.Exit(130)
    fit.to_bundle(folder, data, out)
    typer.echo(f"{shown(out)}: {out.stat().st_size} bytes")
