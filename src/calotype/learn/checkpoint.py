"""Files of a training run."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from calotype.errors import InputError


def save(state: dict[str, Any], path: Path) -> None:
    """Write a state so that a kill at any moment leaves the old or the new one."""
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    unfinished.replace(path)


def load(path: Path) -> dict[str, Any]:
    """A state that `save` or `save_weights` wrote.

    Raises:
        InputError: If the file is something else.
    """
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{path}: no weights or checkpoint of calotype: {error}") from error


def save_weights(state: dict[str, Any], path: Path) -> None:
    """The averaged weights of a state in float16: what it takes to train on, without the optimisers."""
    save({name: value.half() for name, value in state["average"].items()}, path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Weights in float32, from a file of weights or a checkpoint."""
    state = load(path)
    weights = state.get("average", state)
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path}: holds no weights of a codec")
    return {name: value.float() for name, value in weights.items()}
