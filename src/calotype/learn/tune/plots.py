"""What a search looks like."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState
from optuna.visualization import matplotlib as pictures

LEAST_TRIALS = 4
"""The importance of a knob cannot be told from fewer."""


def draw(study: Study, unit: str, folder: Path) -> list[Path]:
    """Write the plots of a study as PNG files: its history, the trials' courses, each knob, and which matter."""
    plt.switch_backend("agg")
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    wanted: dict[str, Callable[[], object]] = {
        "history": lambda: pictures.plot_optimization_history(study, target_name=unit),
        "courses": lambda: pictures.plot_intermediate_values(study),
        "knobs": lambda: pictures.plot_slice(study, target_name=unit),
    }
    if len(finished) >= LEAST_TRIALS and len(finished[0].params) > 1:
        wanted["importances"] = lambda: pictures.plot_param_importances(study)
    return [_written(make, folder / f"{name}.png") for name, make in wanted.items()]


def _written(make: Callable[[], object], path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        axes: Axes = np.ravel(np.array(make(), object))[0]
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return path
