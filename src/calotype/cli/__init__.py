"""The command line: `calotype encode`, `decode`, `pack`, `unpack` and the others."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from calotype import __version__
from calotype.cli.advise import advise
from calotype.cli.bench import bench
from calotype.cli.console import FAILURES, describe
from calotype.cli.decode import decode
from calotype.cli.encode import encode
from calotype.cli.explore import explore
from calotype.cli.info import info
from calotype.cli.ls import ls
from calotype.cli.models import models
from calotype.cli.pack import pack
from calotype.cli.sample import sample
from calotype.cli.train import train
from calotype.cli.tune import tune
from calotype.cli.unpack import extract, unpack
from calotype.errors import OptionError

app = typer.Typer(
    name="calotype",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (encode, decode, info, advise, train, tune, explore, sample, bench, pack, unpack, ls, extract):
    app.command()(command)
app.add_typer(models, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"calotype {__version__}")
        raise typer.Exit


@app.callback()
def calotype(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A learned image codec: small files, and the same latents on every machine."""
    del version


def _one_line(message: Warning | str, *_: object) -> str:
    return f"calotype: warning: {message}\n"


def main() -> None:
    """Run the command line; the entry point.

    Exit status: 0 if all went well, 1 if anything failed, 2 if the command was misused, 130 if interrupted.
    """
    warnings.formatwarning = _one_line
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except FAILURES as error:
        typer.echo(f"calotype: error: {describe(error)}", err=True)
        sys.exit(2 if isinstance(error, OptionError) else 1)
