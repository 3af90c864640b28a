"""The command line: `calotype encode`, `decode`, `pack`, `unpack` and the others."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from calotype import __version__
from calotype.cli.console import FAILURES, describe
from calotype.errors import OptionError

COMMANDS = (
    "encode",
    "decode",
    "info",
    "advise",
    "train",
    "tune",
    "explore",
    "sample",
    "bench",
    "pack",
    "unpack",
    "ls",
    "extract",
    "models",
)
ELSEWHERE = {"extract": "unpack"}
"""Commands that are not in the module of their own name."""
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class _Commands(TyperGroup):
    """Each command is imported and built when it is asked for: to do so with all takes a tenth of a cold decode."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: dict[str, Any] = dict.fromkeys(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name in COMMANDS and self.commands[cmd_name] is None:
            self.commands[cmd_name] = _command(cmd_name)
        return self.commands.get(cmd_name)


def _command(name: str) -> Any:
    found = getattr(import_module(f"calotype.cli.{ELSEWHERE.get(name, name)}"), name)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False, context_settings=SETTINGS)
    alone.command(name)(found)
    return typer.main.get_command(alone)


app = typer.Typer(
    name="calotype",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
)


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
