"""What is said on stderr, and tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from calotype.errors import CalotypeError, OptionError

if TYPE_CHECKING:
    from rich.console import Console

FAILURES = (CalotypeError, OSError, MemoryError)
"""What bad input or a bad machine can raise; anything else is a mistake in the program."""

Step = TypeVar("Step")
_PIPE_COLUMNS = 240


def printable(text: str) -> str:
    """A text without control characters, which could steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def shown(path: Path | None, standard: str = "stdin") -> str:
    """A path as it is shown; None is a standard stream."""
    return standard if path is None else printable(str(path))


@cache
def stderr() -> Console:
    """Standard error, for what a person watches. A script, which does not, need not wait until rich is imported."""
    from rich.console import Console

    return Console(stderr=True)


def is_watched() -> bool:
    """Whether standard error is a terminal; a program without a console has none at all."""
    return sys.stderr is not None and sys.stderr.isatty()  # pyright: ignore[reportUnnecessaryComparison]


def say(line: str) -> None:
    """Print a line on stderr as it is, however long."""
    if is_watched():
        stderr().out(line, highlight=False)
    else:
        typer.echo(line, err=True)


def watched(steps: Iterable[Step], total: int, *, quiet: bool = False) -> Iterable[Step]:
    """The same steps, with a bar while they come if a person watches."""
    if quiet or not is_watched():
        return steps
    from rich.progress import track

    return track(steps, "", total=total, console=stderr(), transient=True)


def note_preview(model: str) -> None:
    """Say that a model is a preview."""
    say(f"calotype: note: model {model} is a preview: its files may not decode after the next release")


def describe(error: BaseException) -> str:
    """An error as one line, without numbers or quotes."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif not isinstance(error, FAILURES):
        text = f"unexpected {type(error).__name__}: {error}"
    return printable(" ".join(text.split()))


def complain(name: str, error: BaseException) -> None:
    """Print on stderr what went wrong with a file."""
    text = describe(error)
    say(f"calotype: error: {text if text.startswith(name) else f'{name}: {text}'}")


def print_table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> None:
    """Print rows of equal length in columns on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not sys.stdout.isatty():
        console.width = _PIPE_COLUMNS
    table = Table(box=None, show_header=bool(header), pad_edge=False, padding=(0, 2, 0, 0))
    for name in header or rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)


def refuse_options(where: str, options: Mapping[str, object]) -> None:
    """Refuse options that have no effect; those that were not given are false.

    Raises:
        OptionError: If one was given.
    """
    for name, value in options.items():
        if value:
            raise OptionError(f"--{name} has no effect with {where}: leave it out")
