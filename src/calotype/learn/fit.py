"""From pictures to a bundle: `calotype train`."""

from __future__ import annotations

import json
import os
import platform
import signal
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from calotype import bundle, library
from calotype.errors import InputError, OptionError
from calotype.learn import card, checkpoint, config
from calotype.learn.config import MSE, SYNTHESIS, VISUAL, Architecture, Config, Recipe
from calotype.learn.data import Crops
from calotype.learn.export import add_visual_head, export
from calotype.learn.grow import origin, with_one_channel
from calotype.learn.look import LEAST_PX
from calotype.learn.plan import PICTURES, check_pictures, other_run, write
from calotype.learn.restore import codec_of
from calotype.learn.split import Data
from calotype.learn.train import REPORTED_EVERY, STATE, Row, Training, run
from calotype.learn.watch import LOG, Log, Point, as_unit, curve
from calotype.runtime import Runtime
from calotype.whole import write_whole

CONFIG, CHECKPOINT = "config.json", "checkpoint.pt"
SAVE_EVERY, VALIDATE_EVERY = 500, 2000
SAVED_SHARE, VALIDATED_SHARE, ROW_STEPS = 0.02, 0.1, 10
"""Of a run by the clock, of which nobody knows how many steps it will have."""


def make_fabric(device: str, batch: int) -> Fabric:
    """The devices that `device` (auto, cpu, cuda) names; under torchrun, all its processes, which share each batch.

    Raises:
        OptionError: If there is no such device, or the batch cannot be shared evenly.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device not in ("auto", "cpu", "cuda"):
        raise OptionError(f"device {device!r} is none of auto, cpu and cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("device cuda: PyTorch finds no GPU here; leave the option out to train on the CPU")
    if batch % processes:
        raise OptionError(f"batch {batch} is no multiple of the {processes} processes that share it: give one that is")
    kind = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    fabric = Fabric(accelerator=kind, devices=processes, strategy="ddp" if processes > 1 else "auto")
    fabric.launch()
    return fabric


def weights_from(source: str, arch: Architecture, objective: str = MSE) -> dict[str, Tensor]:
    """Weights of a file that ends in .pt, or of a model by name or path, from which `arch` can start.

    Those of three channels start a codec of one, too; a head that the model has for the objective is trained on.

    Raises:
        InputError: If they are of no codec, or of one that cannot grow into `arch`.
        ModelError: If there is no such model, or one that cannot be trained on.
    """
    is_file = source.endswith(".pt")
    head = VISUAL if objective == VISUAL else None
    weights = checkpoint.load_weights(Path(source)) if is_file else codec_of(library.find(source), head).state_dict()
    if arch.channels == 1 and _channels_of(weights) == 3:
        weights = with_one_channel(weights)
    try:
        origin(weights, arch)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    return weights


def _channels_of(weights: dict[str, Tensor]) -> int:
    stem = weights.get("g_a.stem.weight")
    return 0 if stem is None or stem.ndim != 2 else stem.shape[1] // 64


@contextmanager
def until_told() -> Generator[Callable[[], bool]]:
    """Whether an interrupt or a request to end has come; a second interrupt ends at once."""
    told: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        if told:
            raise KeyboardInterrupt
        told.append(number)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_same(folder: Path, wanted: Config) -> None:
    """A run goes on as what it was begun; only its length may change."""
    begun = config.read(folder / CONFIG)
    same = replace(begun.recipe, steps=wanted.recipe.steps, minutes=wanted.recipe.minutes) == wanted.recipe
    if not same or begun.architecture != wanted.architecture or begun.card.get("base") != wanted.card.get("base"):
        raise other_run(folder, "of another recipe, size or base")


@dataclass(frozen=True)
class Watcher:
    """Told of what happens, to show it: the data, the first step and how much is done; means of some steps; curves."""

    begun: Callable[[Data, int, float], None]
    row: Callable[[Row], None]
    curve: Callable[[int, list[Point]], None]


def fit(plan: Config, data: Data, folder: Path, fabric: Fabric, start: str | None, watcher: Watcher | None) -> bool:
    """Train as far as the recipe goes, or until an interrupt; the folder holds the run, and resumes it.

    Returns:
        Whether the run is at its end. Of several processes, one has a watcher: it writes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / CHECKPOINT
    if plan.recipe.objective == VISUAL:
        plan = _for_base(plan, start)
    if plan.recipe.trains == SYNTHESIS and start is None:
        raise OptionError(f"trains {SYNTHESIS} leaves the other parts as they are: name trained ones with --from")
    if saved.exists():
        _check_same(folder, plan)
        check_pictures(data.listing, folder)
    training = _begun(plan, Crops(data.train, data.fine, plan.recipe), fabric, saved, start)
    if watcher is not None:
        write(plan, folder / CONFIG)
        write_whole(folder / PICTURES, data.listing)
    with until_told() as told:
        _run(training, data, folder, told, watcher)
    return training.progress >= 1


def _for_base(plan: Config, start: str | None) -> Config:
    """The plan of a visual head: it has the sizes of the model that it is added to, and says which that is."""
    if start is None or start.endswith(".pt"):
        raise OptionError(f"objective {VISUAL} trains a second head of a model: name the model with --from")
    base = library.find(start)
    arch = codec_of(base).arch
    if arch.channels != 3 or plan.recipe.crop_px < LEAST_PX:
        raise OptionError(f"objective {VISUAL} needs 3 channels and a crop_px of {LEAST_PX} or more")
    return replace(plan, architecture=arch, card=plan.card | {"base": base.id.hex()})


def _begun(plan: Config, crops: Crops, fabric: Fabric, saved: Path, start: str | None) -> Training:
    """A run as its checkpoint left it, or a new one."""
    if not saved.exists():
        weights = None if start is None else weights_from(start, plan.architecture, plan.recipe.objective)
        return Training(plan, crops, fabric, weights)
    state = checkpoint.load(saved, STATE)
    training = Training(plan, crops, fabric, state["codec"])
    try:
        training.load(state)
    except ValueError as error:
        raise InputError(f"{saved}: of another version of calotype ({error}): begin anew with another --run") from error
    return training


def _run(training: Training, data: Data, folder: Path, told: Callable[[], bool], watcher: Watcher | None) -> None:
    fabric, recipe = training.fabric, training.recipe
    every = ROW_STEPS if recipe.minutes else REPORTED_EVERY
    if watcher is None:
        run(training, stopped=told, every=every)
        return
    watcher.begun(data, training.step, training.progress)
    pictures = [x.to(fabric.device) for x in as_unit(list(data.validation), peak=data.validation.form.peak)]
    log = Log(folder)
    before = training.progress

    def report(row: Row) -> None:
        nonlocal before
        log.row(row)
        watcher.row(row)
        if _is_due(recipe, before, row, SAVE_EVERY, SAVED_SHARE) or told():
            checkpoint.save(training.state(), folder / CHECKPOINT)
        if _is_due(recipe, before, row, VALIDATE_EVERY, VALIDATED_SHARE):
            points, x_hat = curve(training.average, pictures)
            log.validation(row.step, points, x_hat)
            watcher.curve(row.step, points)
        before = row.progress

    with closing(log):
        run(training, report=report, stopped=told, every=every)


def _is_due(recipe: Recipe, before: float, row: Row, every: int, share: float) -> bool:
    """Whether it is time: every so many steps, or each time such a share of the minutes is over; and at the end."""
    if row.progress >= 1:
        return True
    return row.progress // share > before // share if recipe.minutes else row.step % every == 0


def hours(folder: Path) -> float:
    """Time that a run has taken, by its log."""
    rows = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return sum(row["seconds"] for row in rows if "seconds" in row) / 3600


def hardware(device: torch.device) -> str:
    """What trained on this device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def to_bundle(folder: Path, data: Data, out: Path, start: str | None, device: torch.device) -> bundle.Bundle:
    """Write the bundle of a run and its card: what it was made from, how good it is.

    Args:
        folder: The run's.
        data: What it learned from.
        out: The bundle to write.
        start: What the run started from; a visual head is added to it.
        device: Where it was trained.
    """
    plan = config.read(folder / CONFIG)
    state = checkpoint.load(folder / CHECKPOINT, STATE)
    weights: dict[str, Any] = state["average"]
    validation = data.judges()
    made = {"steps_trained": state["step"], "hours": round(hours(folder), 2), "hardware": hardware(device)}
    if plan.recipe.objective == VISUAL:
        add_visual_head(library.find(start), plan.recipe, weights, made, out, validation)
    else:
        export(replace(plan, card=plan.card | made), weights, out, data.calibration(plan.recipe.seed), validation)
    written = bundle.read(out)
    card.write(written, Runtime(written), validation)
    return written
