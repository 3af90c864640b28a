"""Many trials, kept in an SQLite file, and the best of them as a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna import Study
from optuna.exceptions import StorageInternalError
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from calotype.errors import CalotypeError, InputError, OptionError
from calotype.learn.bitsback.fit import USUAL
from calotype.learn.textbook import config
from calotype.learn.tune.knobs import KNOBS, Knob, Sections, sections
from calotype.learn.tune.trial import Task, costs
from calotype.whole import write_whole

STUDY, BEST = "study.db", "best.json"
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
RANDOM_TRIALS, TRIALS_BEFORE_PRUNING = 6, 4
SEED = 1


def usual(task: Task) -> dict[str, float]:
    """The knobs as they stand if nobody turns them: the first trial."""
    if task.lossless:
        architecture, recipe = USUAL[task.arch]
        return {"latents": architecture.latents[0], "width": architecture.width, "muon_rate": recipe.muon_rate}
    plan = config.usual(task.arch)
    known = {**vars(plan.architecture), **vars(plan.recipe)}
    return {knob.name: min(known[knob.name], knob.high) for knob in knobs(task)}


def knobs(task: Task) -> tuple[Knob, ...]:
    """What the search turns; there are no more latents than samples."""
    most = task.data.train.images[0].size
    return tuple(
        replace(knob, high=min(knob.high, most)) if knob.name == "latents" else knob for knob in KNOBS[task.arch]
    )


def open_study(task: Task, folder: Path) -> Study:
    """The study of a folder, a new one if there is none. A trial that was interrupted stands first in the queue.

    Raises:
        OptionError: If it is a study of something else.
        InputError: If its file is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / STUDY
    url = URL.create("sqlite", database=str(path.absolute())).render_as_string()
    try:
        study = optuna.create_study(
            storage=url,
            study_name="calotype",
            load_if_exists=True,
            pruner=MedianPruner(n_startup_trials=TRIALS_BEFORE_PRUNING),
        )
    except (SQLAlchemyError, StorageInternalError) as error:
        raise InputError(f"{path}: cannot be read as a study: give another --out") from error
    about = {"arch": task.arch, "data": task.data.sha256(), "minutes": task.minutes, "unit": task.unit}
    if study.user_attrs.get("about", about) != about:
        raise OptionError(f"{folder}: holds a search of {study.user_attrs['about']}; give another --out, or the same")
    study.set_user_attr("about", about)
    study.sampler = TPESampler(seed=SEED + len(study.trials), n_startup_trials=RANDOM_TRIALS)
    if not study.trials:
        study.enqueue_trial(usual(task))
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def done(study: Study) -> int:
    """Trials that have a result: a cost, or that they were not worth going on with."""
    return len(study.get_trials(deepcopy=False, states=DONE))


def completed(study: Study) -> int:
    """Trials that came to their end."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def search(
    task: Task, study: Study, trials: int, stopped: Callable[[], bool], report: Callable[[FrozenTrial], None]
) -> bool:
    """Try until so many trials have a result, or `stopped`.

    Args:
        task: What is searched.
        study: Of `open_study`.
        trials: In all, those of earlier calls included.
        stopped: Asked after each step of a training.
        report: Told each trial's result.

    Returns:
        Whether all are done.
    """
    while done(study) < trials and not stopped():
        trial = study.ask({knob.name: knob.distribution for knob in knobs(task)})
        state, cost = _tried(task, trial, sections(task.arch, trial.params), stopped)
        if state is not None:
            report(study.tell(trial, cost, state))
    return done(study) >= trials


def _tried(
    task: Task, trial: Trial, recipe: Sections, stopped: Callable[[], bool]
) -> tuple[TrialState | None, float | None]:
    """How a trial ends, and its cost; no state if it was interrupted. A training that fails is given up."""
    cost = None
    try:
        for quarter, cost in enumerate(costs(task, recipe, stopped), 1):
            trial.report(cost, quarter)
            if trial.should_prune():
                return TrialState.PRUNED, None
    except (OptionError, InputError):
        raise  # so would every trial
    except CalotypeError as error:
        trial.set_user_attr("error", str(error))
        return TrialState.PRUNED, None
    return (None, None) if stopped() else (TrialState.COMPLETE, cost)


def write_best(task: Task, study: Study, folder: Path) -> Path:
    """The best recipe as a file for `calotype train --recipe`; its path."""
    made: dict[str, Any] = sections(task.arch, study.best_params)
    path = folder / BEST
    write_whole(path, (json.dumps(made, indent=1) + "\n").encode())
    return path
