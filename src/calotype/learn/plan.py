"""What the configs of all kinds of models share: JSON of three sections, and that a run goes on as it was begun."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calotype.errors import OptionError

SECTIONS = {"architecture", "recipe", "card"}


def write(config: Any, path: Path) -> None:
    """Keep a config, a dataclass, as JSON."""
    path.write_text(json.dumps(asdict(config), indent=1) + "\n")


def sections(path: Path, hint: str = "") -> dict[str, dict[str, Any]]:
    """The sections of a JSON file, their values not yet checked.

    Raises:
        OptionError: If there is no such file, or it holds anything else; `hint` says what to give instead.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise OptionError(f"recipe {path}: {error}{hint}") from error
    known = isinstance(values, dict) and set(values) <= SECTIONS
    if not known or not all(isinstance(section, dict) for section in values.values()):
        raise OptionError(f"{path}: a recipe is an object of the objects architecture, recipe and card, nothing else")
    return values


def other_run(folder: Path, what: str) -> OptionError:
    """That a folder holds a run which this command would not go on with."""
    return OptionError(f"{folder}: holds a run {what}; give another --run, or what it began with")
