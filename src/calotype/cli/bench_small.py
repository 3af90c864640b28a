"""`calotype bench` of a data set of small images."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import track

from calotype import datasets, library
from calotype.cli.console import is_watched, shown, stderr
from calotype.errors import InputError, OptionError
from calotype.small import image_of, small_model

if TYPE_CHECKING:
    from calotype.bench.small import Row


def bench_small(sources: list[Path], out: Path, models: list[str], data: Path | None) -> None:
    """Measure models and general codecs on a test set, and write the table."""
    if len(sources) > 1:
        raise OptionError(f"a benchmark of {sources[0]} takes nothing beside it; leave out {sources[1]}")
    from calotype.bench import run, small

    name = str(sources[0])
    images = datasets.load_test(name, data).images
    found = [small_model(library.find_any(model)) for model in models]
    for model in found:
        if image_of(model) != images.shape[1:]:
            path, wanted = model.bundle.path, image_of(model)
            raise InputError(f"{path}: codes images of {wanted}; those of {name} are {images.shape[1:]}")
    names = [model.bundle.name for model in found]
    if twice := {model for model in names if names.count(model) > 1}:
        raise OptionError(f"two models are named {min(twice)!r}: leave one out, for rows go by name")
    rows: list[Row] = []
    for job in track(small.jobs(images, found), "measuring", console=stderr(), disable=not is_watched()):
        rows += job()
    given = [word for model in models for word in ("--model", Path(model).name)]
    command = shlex.join(["calotype", "bench", name, *given, "--out", out.name])
    small.write(rows, name, command, run.machine(), out)
    typer.echo(f"table: {shown(out / 'small.md')}")
