"""From pictures to a bundle: `calotype train`."""

from __future__ import annotations

import json
import os
import platform
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor

from calotype import bundle, library
from calotype.errors import InputError, OptionError
from calotype.learn import card, checkpoint, config
from calotype.learn.config import VISUAL, Architecture, Config
from calotype.learn.data import Crops, Pictures, find_pictures
from calotype.learn.export import add_visual_head, export
from calotype.learn.grow import origin
from calotype.learn.look import LEAST_PX
from calotype.learn.plan import other_run, write
from calotype.learn.restore import codec_of
from calotype.learn.train import STATE, Row, Training, run
from calotype.learn.watch import LOG, Log, Point, as_unit, curve, middle
from calotype.runtime import Runtime

CONFIG, CHECKPOINT = "config.json", "checkpoint.pt"
SAVE_EVERY, VALIDATE_EVERY = 500, 2000
HELD_OUT_SHARE, MOST_HELD_OUT = 20, 24
MOST_CALIBRATION, CALIBRATION_PX = 200, 512


@dataclass(frozen=True)
class Data:
    """What a run learns from and what it is looked at with."""

    train: Pictures
    fine: Pictures | None
    validation: Pictures

    @classmethod
    def find(
        cls, pictures: list[Path], lossless: list[Path], validation: list[Path], least_px: int, device: torch.device
    ) -> Data:
        """Read pictures; without any for validation, one in 20 of the others is held out."""
        paths = find_pictures(pictures)
        held_out = find_pictures(validation) if validation else paths[::HELD_OUT_SHARE][:MOST_HELD_OUT]
        chosen = [p for p in paths if p not in set(held_out)] if len(paths) > len(held_out) else paths
        fine = Pictures(find_pictures(lossless), least_px, device) if lossless else None
        return cls(Pictures(chosen, least_px, device), fine, Pictures(held_out[:MOST_HELD_OUT], 64))

    @property
    def skipped(self) -> dict[Path, str]:
        """Files that were left out, and why."""
        fine = {} if self.fine is None else self.fine.skipped
        return self.train.skipped | fine | self.validation.skipped

    def calibration(self, seed: int) -> Iterator[Image.Image]:
        """The middles of some pictures to fit the tables to: of lossless ones if there are any."""
        for picture in (self.fine or self.train).sample(MOST_CALIBRATION, seed):
            yield Image.fromarray(middle(picture, CALIBRATION_PX, CALIBRATION_PX).cpu().numpy())


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


def weights_from(source: str, arch: Architecture) -> dict[str, Tensor]:
    """Weights of a file that ends in .pt, or of a model by name or path, from which `arch` can start.

    Raises:
        InputError: If they are of no codec, or of one that cannot grow into `arch`.
        ModelError: If there is no such model, or one that cannot be trained on.
    """
    is_file = source.endswith(".pt")
    weights = checkpoint.load_weights(Path(source)) if is_file else codec_of(library.find(source)).state_dict()
    try:
        origin(weights, arch)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    return weights


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
    same = replace(begun.recipe, steps=wanted.recipe.steps) == wanted.recipe
    if not same or begun.architecture != wanted.architecture or begun.card.get("base") != wanted.card.get("base"):
        raise other_run(folder, "of another recipe, size or base")


@dataclass(frozen=True)
class Watcher:
    """Told of what happens, to show it: the data and the first step, means of some steps, curves."""

    begun: Callable[[Data, int], None]
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
    if saved.exists():
        _check_same(folder, plan)
    training = _begun(plan, Crops(data.train, data.fine, plan.recipe), fabric, saved, start)
    if watcher is not None:
        write(plan, folder / CONFIG)
    with until_told() as told:
        _run(training, data, folder, told, watcher)
    return training.step >= plan.recipe.steps


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
        weights = None if start is None else weights_from(start, plan.architecture)
        return Training(plan, crops, fabric, weights)
    state = checkpoint.load(saved, STATE)
    training = Training(plan, crops, fabric, state["codec"])
    training.load(state)
    return training


def _run(training: Training, data: Data, folder: Path, told: Callable[[], bool], watcher: Watcher | None) -> None:
    fabric = training.fabric
    if watcher is None:
        run(training, stopped=told)
        return
    watcher.begun(data, training.step)
    pictures = [x.to(fabric.device) for x in as_unit(list(data.validation))]
    log = Log(folder)

    def report(row: Row) -> None:
        log.row(row)
        watcher.row(row)
        last = row.step >= training.recipe.steps or told()
        if row.step % SAVE_EVERY == 0 or last:
            checkpoint.save(training.state(), folder / CHECKPOINT)
        if row.step % VALIDATE_EVERY == 0 or row.step >= training.recipe.steps:
            points, x_hat = curve(training.average, pictures)
            log.validation(row.step, points, x_hat)
            watcher.curve(row.step, points)

    with closing(log):
        run(training, report=report, stopped=told)


def hours(folder: Path) -> float:
    """Time that a run has taken, by its log."""
    rows = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return sum(row["seconds"] for row in rows if "seconds" in row) / 3600


def hardware(device: torch.device) -> str:
    """What trained on this device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def to_bundle(folder: Path, data: Data, out: Path, start: str | None, device: torch.device) -> None:
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
    validation = [Image.fromarray(p.numpy()) for p in data.validation]
    made = {"steps_trained": state["step"], "hours": round(hours(folder), 2), "hardware": hardware(device)}
    if plan.recipe.objective == VISUAL:
        add_visual_head(library.find(start), plan.recipe, weights, made, out, validation)
    else:
        export(replace(plan, card=plan.card | made), weights, out, data.calibration(plan.recipe.seed), validation)
    written = bundle.read(out)
    card.write(written, Runtime(written), validation)
