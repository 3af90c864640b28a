"""Files of a training run."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.whole import write_whole


def save(state: dict[str, Any], path: Path) -> None:
    """Write a state so that a kill at any moment leaves the old or the new one."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def _load(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # damaged files raise nearly anything
        raise InputError(f"{path}: no weights or checkpoint of calotype: {error}") from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: no weights or checkpoint of calotype, but a {type(state).__name__}")
    return state


def load(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """The state of a run, as `save` wrote it.

    Args:
        path: The file.
        keys: What it must have.

    Raises:
        InputError: If the file is something else.
    """
    state = _load(path)
    if missing := set(keys) - set(state):
        raise InputError(f"{path}: no checkpoint of a run; it lacks {', '.join(sorted(missing))}")
    return state


def load_weights(path: Path) -> dict[str, Tensor]:
    """Weights in float32, from a file of weights or a checkpoint.

    Raises:
        InputError: If the file is something else. Whether they are a codec's, `grow.grown` finds out.
    """
    state = _load(path)
    weights = state.get("average", state)
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path}: no weights of a codec; those are tensors by name")
    return {name: value.float() for name, value in weights.items()}
