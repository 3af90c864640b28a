"""From a data set to a bundle and its card: `calotype train DATA --arch ...`."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calotype import bundle, library
from calotype.datasets import Dataset, Images
from calotype.errors import InputError, OptionError
from calotype.learn import checkpoint
from calotype.learn.fit import CHECKPOINT, CONFIG, hardware, until_told
from calotype.learn.plan import other_run, write
from calotype.learn.restore import constants_of
from calotype.learn.textbook import card, config
from calotype.learn.textbook.config import Config
from calotype.learn.textbook.export import export
from calotype.learn.textbook.loop import Row, Run, epochs
from calotype.learn.textbook.nets import Autoencoder, Pca, Vae, model_of, to_unit
from calotype.learn.textbook.prepare import Standardise
from calotype.learn.watch import LOG
from calotype.textbook.model import DECODER, ENCODER, bundle_of

MOST_CALIBRATION = 20_000


def tensor(images: Images) -> Tensor:
    """Images as a tensor of their own."""
    return torch.from_numpy(np.array(images))


def base_of(arch: str, data: Dataset, name: str) -> Config:
    """What a run is made from if nobody says otherwise."""
    base = config.usual(arch)
    architecture = replace(base.architecture, image=data.train.images.shape[1:])
    return replace(base, card={**base.card, "name": name}, architecture=architecture)


def plan_of(arch: str, recipe: Path | None, data: Dataset, name: str, changes: dict[str, Any]) -> Config:
    """The config of a run: defaults, then a recipe's file, then what was given by hand."""
    base = base_of(arch, data, name)
    plan = base if recipe is None else config.read(recipe, base)
    for key in ("arch", "image"):  # a run's config.json has them, and may be a recipe
        said, given = (getattr(part.architecture, key) for part in (plan, base))
        if said != given:
            raise OptionError(f"{recipe}: {key} is {said}, and the command's is {given}: leave it out of the recipe")
    about = {"data": [{"name": data.name, "licence": data.licence}], **plan.card, "data_sha256": data.sha256()}
    settled = config.changed(plan.recipe, changes, "the command")
    if not settled.epochs and not settled.minutes:
        raise OptionError("epochs and minutes are both 0, so training would not end: give one of them")
    return Config(plan.architecture, settled, about)


def weights_from(net: Autoencoder | Vae, start: str) -> None:
    """Set a model's weights to those of a bundle of the same sizes, by name or path.

    The logistic likelihood's scale, which no bundle holds, begins anew.

    Raises:
        InputError: If the sizes differ.
        ModelError: If it is no textbook model.
    """
    found = bundle_of(library.find_any(start))
    for graph, part in ((ENCODER, net.encoder), (DECODER, net.decoder)):
        stored = constants_of(found.members[graph])
        for name, parameter in part.named_parameters():
            if name not in stored or stored[name].shape != tuple(parameter.shape):
                raise InputError(f"{start}: its {graph} has no {name} of shape {tuple(parameter.shape)}")
            parameter.data.copy_(torch.from_numpy(stored[name].astype(np.float32)))


def settle(net: Autoencoder | Vae, images: Images) -> None:
    """Set what follows from the training images at once: principal components, or the encoder's standardisation."""
    if isinstance(net, Pca):
        net.solve(tensor(images))
    for layer in net.encoder:
        if isinstance(layer, Standardise):
            layer.fit(to_unit(tensor(images[:MOST_CALIBRATION])))


def _check_same(folder: Path, wanted: Config) -> None:
    """A run goes on as what it was begun; only its length may change."""
    begun = config.read(folder / CONFIG)
    length = {"epochs": wanted.recipe.epochs, "minutes": wanted.recipe.minutes}
    if replace(begun.recipe, **length) != wanted.recipe or begun.architecture != wanted.architecture:
        raise other_run(folder, "of another recipe or size")
    if begun.card.get("data_sha256") != wanted.card["data_sha256"]:
        raise other_run(folder, "on other images")


def fit(plan: Config, data: Dataset, folder: Path, start: str | None, report: Callable[[Row], None]) -> bool:
    """Train as far as the recipe goes, or until an interrupt; the folder holds the run, and resumes it.

    Returns:
        Whether the run is at its end.
    """
    net = model_of(plan.architecture, plan.recipe)
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / CHECKPOINT
    if saved.exists():
        _check_same(folder, plan)
    elif start is not None:
        weights_from(net, start)
    settle(net, data.train.images)
    run = Run(net, plan.recipe, tensor(data.train.images), tensor(data.validation.images))
    if saved.exists():
        run.load(checkpoint.load(saved))
    write(plan, folder / CONFIG)
    if isinstance(net, Pca):
        run.judge()
        checkpoint.save(run.state(), saved)
        return True
    with until_told() as told, (folder / LOG).open("a", buffering=1) as log:
        for row in epochs(run, saved, told):
            log.write(json.dumps(asdict(row)) + "\n")
            report(row)
    return run.finished


def validation_loss(folder: Path) -> float:
    """Of the weights that a run keeps."""
    return checkpoint.load(folder / CHECKPOINT)["best_loss"]


def to_bundle(folder: Path, data: Dataset, out: Path) -> None:
    """Write the bundle of a run and its card: what it was made from, how good it is."""
    plan, state = config.read(folder / CONFIG), checkpoint.load(folder / CHECKPOINT)
    net = model_of(plan.architecture, plan.recipe)
    net.load_state_dict(state["best"])
    made = {
        "epochs_trained": state["best_epoch"],
        "minutes": round(state["seconds"] / 60, 2),
        "hardware": hardware(torch.device("cpu")),
        "system": platform.system(),
        "parameters": sum(p.numel() for part in (net.encoder, net.decoder) for p in part.parameters()),
        "validation_loss": round(state["best_loss"], 6),
    }
    images = data.train.images[:MOST_CALIBRATION]
    export(net, replace(plan, card=plan.card | made), np.array(images), np.array(data.validation.images), out)
    card.write(bundle_of(bundle.read_file(out)))
