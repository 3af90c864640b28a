"""`calotype tune`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from calotype import datasets
from calotype.cli.console import is_watched, say, shown, stderr
from calotype.cli.train_small import ARCHS, LOSSLESS_ARCHS
from calotype.errors import OptionError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from calotype.learn.tune.trial import Task

USUAL_PSNR_DB = 20.0


def tune(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="mnist, fashion-mnist, digits, or a folder.")],
    arch: Annotated[str, typer.Option(help=f"One of {', '.join(ARCHS)}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the search: its trials, plots, best recipe.")],
    trials: Annotated[int, typer.Option("--trials", "-n", min=1, help="Trials in all, earlier ones included.")] = 20,
    minutes: Annotated[float, typer.Option(min=0.001, help="Training time of a trial.")] = 1.0,
    psnr: Annotated[
        float | None, typer.Option(min=1, max=60, help=f"Compare bytes at this PSNR; {USUAL_PSNR_DB:g} if not given.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--data", help="Folder with the IDX files of a named set.")] = None,
    resize: Annotated[int | None, typer.Option(min=1, help="Sides to resize a folder's pictures to.")] = None,
) -> None:
    """Search latents, width, rate and others of a family of small models, by what validation images then cost.

    Lossy families are compared by the bytes of an image at equal PSNR, lossless ones by bits per dimension. Ctrl-C
    ends it, and the same command goes on. Needs the extra "learn" of the package.
    """
    if arch not in ARCHS:
        raise OptionError(f"--arch {arch!r} is none of {', '.join(ARCHS)}")
    if arch in LOSSLESS_ARCHS and psnr is not None:
        raise OptionError(f"--psnr has no effect with --arch {arch}: leave it out")
    try:
        from calotype.learn.fit import until_told
        from calotype.learn.tune import plots
        from calotype.learn.tune.study import completed, open_study, write_best
        from calotype.learn.tune.trial import Task
    except ModuleNotFoundError as error:
        raise OptionError(f"calotype tune needs {error.name}: pip install 'calotype[learn]'") from error
    task = Task(arch, datasets.load(data, folder, resize), minutes, psnr or USUAL_PSNR_DB)
    study = open_study(task, out)
    with until_told() as told:
        finished = _search(task, study, trials, told)
    if not completed(study):
        say("calotype: no trial came to its end, so there is no best one")
        raise typer.Exit(130 if not finished else 1)
    best = write_best(task, study, out)
    plots.draw(study, task.unit, out)
    typer.echo(f"{shown(best)}: {study.best_value:.4g} {task.unit}, {_values(study.best_trial)}")
    if not finished:
        say(f"calotype: stopped; {shown(out)} holds the search, and the same command goes on with it")
        raise typer.Exit(130)


def _search(task: Task, study: Study, trials: int, told: Callable[[], bool]) -> bool:
    from calotype.learn.tune.study import done, search

    columns = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), disable=not is_watched()) as progress:
        bar = progress.add_task("trials", total=trials, completed=done(study))

        def report(trial: FrozenTrial) -> None:
            ended = f"{trial.value:.4g} {task.unit}" if trial.state.name == "COMPLETE" else "given up"
            failed = f": {trial.user_attrs['error']}" if "error" in trial.user_attrs else ""
            say(f"calotype: trial {trial.number}, {_values(trial)}: {ended}{failed}")
            progress.update(bar, completed=done(study))

        return search(task, study, trials, told, report)


def _values(trial: FrozenTrial) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
