"""From a data set to a bits-back bundle and its card: `calotype train DATA --arch lossless-vae` or `hvae`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calotype import bundle
from calotype.bitsback.model import MAX_ELEMENTS, MAX_LAYERS, MAX_SIDE, LatentBundle, bundle_of
from calotype.datasets import Dataset, Split
from calotype.errors import InputError, OptionError
from calotype.learn import checkpoint
from calotype.learn.bitsback.export import export
from calotype.learn.bitsback.nets import Architecture
from calotype.learn.bitsback.train import Recipe, Row, Training, bpd
from calotype.learn.card import bullets, facts
from calotype.learn.fit import CHECKPOINT, CONFIG, hardware, until_told
from calotype.learn.plan import MOST, Rules, changed, other_run, sections, write
from calotype.learn.watch import LOG
from calotype.whole import write_whole

USUAL = {
    "lossless-vae": (Architecture(latents=(50,), width=200, depth=1), Recipe()),
    "hvae": (Architecture(latents=(24, 48), width=256, depth=2), Recipe(minutes=60.0, steps=40_000)),
}
"""Families by name: a flat VAE of the size of BB-ANS, and a hierarchy of two layers."""
MAX_LATENTS = 1024
_RULES = Rules(
    limits={
        "width": (1, 4096),
        "depth": (1, 16),
        "steps": (1, MOST),
        "minutes": (1e-6, MOST),
        "batch": (1, 1 << 20),
        "warmup": (1, MOST),
        "fit_every": (1, MOST),
        "fit_images": (1, MOST),
    }
)


@dataclass(frozen=True)
class Plan:
    """All that a run is made from."""

    architecture: Architecture
    recipe: Recipe
    card: dict[str, Any]


def plan_of(arch: str, recipe: Path | None, data: Dataset, name: str, changes: dict[str, Any]) -> Plan:
    """The plan of a run: what is usual for the family, then a recipe's file, then what was given by hand.

    Raises:
        InputError: If the images are larger than a model may be for.
        OptionError: If the recipe holds what a plan does not.
    """
    return planned(arch, {} if recipe is None else sections(recipe), f"{recipe}", data, name, changes)


def planned(
    arch: str, values: dict[str, dict[str, Any]], source: str, data: Dataset, name: str, changes: dict[str, Any]
) -> Plan:
    """The same with a recipe's sections; `source` says where they come from."""
    if "card" in values or "image" in values.get("architecture", {}):
        raise OptionError(f"{source}: a recipe for --arch {arch} says neither card nor image: leave them out")
    usual_architecture, usual_recipe = USUAL[arch]
    architecture = changed(usual_architecture, values.get("architecture", {}), source, _RULES)
    recipe = changed(usual_recipe, values.get("recipe", {}), source, _RULES)
    if len(architecture.latents) > MAX_LAYERS or max(architecture.latents) > MAX_LATENTS:
        raise OptionError(f"{source}: latents are {[*architecture.latents]}, over {MAX_LAYERS} layers of {MAX_LATENTS}")
    learned = [{"name": f"{data.name}, training part", "licence": data.licence}]
    about = {"name": name, "version": "1", "status": "preview", "arch": arch, "data": learned}
    about["data_sha256"] = data.sha256()
    height, width, channels = data.train.images.shape[1:]
    if height * width * channels > MAX_ELEMENTS or max(height, width, channels) > MAX_SIDE:
        raise InputError(
            f"{data.name}: images of {width}x{height} pixels, {channels} channels; lossless models code {MAX_ELEMENTS} "
            f"samples at most, {MAX_SIDE} a side: give --resize"
        )
    return Plan(
        replace(architecture, image=(height, width, channels)),
        changed(recipe, changes, "the command", _RULES),
        about,
    )


def tensor(split: Split) -> Tensor:
    """Images (n, d)."""
    return torch.from_numpy(np.array(split.images).reshape(len(split), -1))


def _check_same(folder: Path, plan: Plan) -> None:
    """A run goes on as what it was begun; only its length may change."""
    begun = json.loads((folder / CONFIG).read_text())
    length = {"steps": plan.recipe.steps, "minutes": plan.recipe.minutes}
    wanted = json.loads(json.dumps([asdict(plan.architecture), asdict(plan.recipe)]))
    if [begun["architecture"], begun["recipe"] | length] != wanted:
        raise other_run(folder, "of another recipe or size")
    if begun["card"].get("data_sha256") != plan.card["data_sha256"]:
        raise other_run(folder, "on other images")


def fit(plan: Plan, data: Dataset, folder: Path, out: Path, report: Callable[[Row, float], None]) -> bool:
    """Train as far as the recipe goes, and write the bundle; or until an interrupt. The folder holds the run.

    Args:
        plan: What to train, and how.
        data: What from.
        folder: Of the run's config, checkpoint and log; a run that is there already goes on.
        out: The bundle to write.
        report: Told now and then where the run stands, and how much of it is over.

    Returns:
        Whether the run is at its end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    training = Training(plan.architecture, plan.recipe, tensor(data.train), tensor(data.validation))
    saved = folder / CHECKPOINT
    if saved.exists():
        _check_same(folder, plan)
        training.load(checkpoint.load(saved))
    write(plan, folder / CONFIG)
    with until_told() as told, (folder / LOG).open("a", buffering=1) as log:

        def row(row: Row) -> None:
            log.write(json.dumps(asdict(row)) + "\n")
            checkpoint.save(training.state(), saved)
            report(row, training.progress)

        finished = training.run(row, told)
    checkpoint.save(training.state(), saved)
    if finished:
        _write(training, plan, out)
    return finished


def _write(training: Training, plan: Plan, out: Path) -> None:
    made = {
        "steps_trained": training.step,
        "minutes": round(training.seconds / 60, 2),
        "hardware": hardware(torch.device("cpu")),
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "validation_bpd": round(bpd(training.model, training.validation), 4),
    }
    export(training.model, plan.card | made | {"recipe": asdict(plan.recipe)}, out)
    written = bundle_of(bundle.read_file(out))
    write_whole(out.with_suffix(".md"), card_text(written, made).encode())


def card_text(written: LatentBundle, made: dict[str, Any]) -> str:
    """The card of a bits-back model, as Markdown."""
    form, card = written.form, written.card
    about = {
        "status": written.status,
        "id": written.id.hex(),
        "images": "{1}x{0}, {2} channels".format(*form.image),
        "latents": " + ".join(str(math.prod(shape)) for shape in form.latents),
        "bytes": written.size_bytes,
    }
    parts = [
        f"# {written.name} {written.version}",
        "Packs images of its size without loss, by bits back: `calotype pack DATA OUT.caloset --lossless -m MODEL`.",
        facts(about),
        "## Data",
        bullets([f"{d['name']} ({d['licence']})" for d in card["data"]]),
        "## Training",
        "`validation_bpd` is minus the ELBO of images that were not trained on, in bits per dimension.",
        facts({**made, **{key: card[key] for key in ("folds",) if key in card}, **card["recipe"]}),
    ]
    return "\n\n".join(parts) + "\n"
