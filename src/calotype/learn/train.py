"""The training loop: `python -m calotype.learn.train FOLDER --out DIR`."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calotype.learn.config import Architecture, Recipe
from calotype.learn.data import Crops, read_folder
from calotype.learn.grow import grown
from calotype.learn.model import Codec, lambda_of
from calotype.learn.muon import Muon
from calotype.learn.start import start_as_transform

CHECKPOINT = "checkpoint.pt"
GROWTH_BATCHES = 24


def loss_of(codec: Codec, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, mean bpp and mean mse of a batch; the loss is over sqrt(lambda), so that all levels count."""
    coded = codec(x, level)
    bpp = (coded.y_bits + coded.z_bits) / (x.shape[2] * x.shape[3])
    mse = (coded.x_hat - x).square().mean((1, 2, 3))
    lam = lambda_of(codec.arch, level)
    loss = ((bpp + lam * 255**2 * mse) / lam.sqrt()).mean()
    return loss, bpp.mean(), mse.mean()


def rate_factor(step: int, recipe: Recipe) -> float:
    """The learning rate over its peak: linear warm-up, then a cosine to zero."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)))


def optimisers(codec: Codec, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for vectors, knots and depthwise kernels."""
    matrices = [p for name, p in codec.named_parameters() if p.ndim == 2 and not name.endswith("knots")]
    chosen = {id(p) for p in matrices}
    others = [p for p in codec.parameters() if id(p) not in chosen]
    return [Muon(matrices, lr=recipe.muon_rate), torch.optim.AdamW(others, lr=recipe.adamw_rate, weight_decay=0.0)]


class Training:
    """A run that can be saved and resumed."""

    def __init__(self, arch: Architecture, recipe: Recipe, crops: Crops) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.crops = recipe, crops
        self.codec = Codec(arch)
        start_as_transform(self.codec, torch.cat([crops.batch(16)[0] for _ in range(16)]))
        self.average = copy.deepcopy(self.codec)
        self.optimisers = optimisers(self.codec, recipe)
        self.peaks = [o.param_groups[0]["lr"] for o in self.optimisers]
        self.step = 0

    def advance(self) -> tuple[float, float, float]:
        """One step; returns loss, bpp and mse."""
        self.codec.train()
        x, level = self.crops.batch(self.recipe.batch)
        loss, bpp, mse = loss_of(self.codec, x, level)
        loss.backward()
        nn.utils.clip_grad_norm_(self.codec.parameters(), self.recipe.clip, error_if_nonfinite=True)
        for optimiser, peak in zip(self.optimisers, self.peaks, strict=True):
            optimiser.param_groups[0]["lr"] = peak * rate_factor(self.step, self.recipe)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self._update_average()
        return loss.item(), bpp.item(), mse.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for averaged, current in zip(self.average.parameters(), self.codec.parameters(), strict=True):
            averaged.lerp_(current, 1 - decay)

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "step": self.step,
            "codec": self.codec.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "torch_random": torch.get_rng_state(),
            "crops_random": json.dumps(self.crops.random.bit_generator.state),
        }

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Begin with the weights of another run, which may have had fewer channels of y or steps of the prior."""
        weights = {name: value.float() for name, value in weights.items()}
        crops = torch.cat([self.crops.batch(16)[0] for _ in range(GROWTH_BATCHES)])
        state = grown(weights, self.codec.arch, crops)
        for codec in (self.codec, self.average):
            codec.load_state_dict(state)

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.step = state["step"]
        self.codec.load_state_dict(state["codec"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        torch.set_rng_state(state["torch_random"])
        self.crops.random.bit_generator.state = json.loads(state["crops_random"])


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old or the new one."""
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    unfinished.replace(path)


def save_weights(state: dict[str, Any], path: Path) -> None:
    """The averaged weights of a checkpoint in float16: what it takes to train on, without the optimisers."""
    save({name: value.half() for name, value in state["average"].items()}, path)


def run(training: Training, out: Path, log_every: int = 50, save_every: int = 500) -> None:
    """Train to the end, logging a line of JSON every `log_every` steps."""
    checkpoint = out / CHECKPOINT
    if checkpoint.exists():
        training.load(torch.load(checkpoint, weights_only=True))
    sums, since = torch.zeros(3), time.monotonic()
    with (out / "log.jsonl").open("a", buffering=1) as log:
        while training.step < training.recipe.steps:
            sums += torch.tensor(training.advance())
            if training.step % log_every == 0:
                loss, bpp, mse = (sums / log_every).tolist()
                seconds = (time.monotonic() - since) / log_every
                row = {"step": training.step, "loss": loss, "bpp": bpp, "mse": mse, "s_per_step": seconds}
                log.write(json.dumps({k: round(v, 7) for k, v in row.items()}) + "\n")
                sums, since = torch.zeros(3), time.monotonic()
            if training.step % save_every == 0 or training.step == training.recipe.steps:
                save(training.state(), checkpoint)


def main() -> None:
    """Read the command line, train."""
    parser = argparse.ArgumentParser(description="Train a codec.")
    parser.add_argument("folder", type=Path, help="folder of training pictures")
    parser.add_argument("--lossless", type=Path, help="folder of lossless pictures, for the highest qualities")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint and log; an existing run resumes")
    parser.add_argument("--start", type=Path, help="weights to begin with, as the export writes them")
    for field in dataclasses.fields(Recipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    args = parser.parse_args()
    recipe = Recipe(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Recipe)})
    args.out.mkdir(parents=True, exist_ok=True)
    arch = Architecture()
    for name, config in (("recipe", recipe), ("architecture", arch)):
        (args.out / f"{name}.json").write_text(json.dumps(dataclasses.asdict(config), indent=1))
    fine = read_folder(args.lossless, recipe.crop_px) if args.lossless else []
    crops = Crops(read_folder(args.folder, recipe.crop_px), fine, recipe.fine_level, recipe.crop_px, recipe.seed)
    training = Training(arch, recipe, crops)
    if args.start and not (args.out / CHECKPOINT).exists():
        training.start_from(torch.load(args.start, weights_only=True))
    run(training, args.out)


if __name__ == "__main__":
    main()
