"""Give a trained codec more channels of y, keeping what it has learned.

A latent of m channels bounds the quality that the transforms can reach: what lies outside its m directions is lost at
any rate. The new channels take the shortcut past the blocks, along the directions in which the codec misses most: a
reduced-rank regression of the residual on the pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.errors import InputError
from calotype.learn.config import Architecture
from calotype.learn.model import Codec

FIT_LEVEL = 208
"""The level at which the residual is fitted: a high one, where the loss matters."""
RIDGE = 1e-12
"""Of the trace of a covariance, on its diagonal: grey pictures stored as RGB have none in most directions."""


def kept_channels(old: int, new: int) -> Tensor:
    """Where the old channels go: the quarters of y, which the prior codes in different order, keep theirs."""
    return (torch.arange(old).reshape(4, -1) + torch.arange(4)[:, None] * (new - old) // 4).flatten()


def with_one_channel(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a codec of three channels as those of one of grey pictures, which does with them what it did.

    What comes in is summed over the channels, what goes out is their mean.
    """
    folded = dict(weights)
    for name in ("g_a.stem.weight", "g_a.shortcut.weight"):
        w = weights[name]
        folded[name] = w.reshape(len(w), 3, -1).sum(1)
    for name in (f"g_s.{layer}.{kind}" for layer in ("head", "shortcut") for kind in ("weight", "bias")):
        w = weights[name]
        folded[name] = w.reshape(3, -1, *w.shape[1:]).mean(0)
    if "g_s.detail.out.bias" in weights:
        folded["g_s.detail.differences.weight"] = weights["g_s.detail.differences.weight"].sum(1, keepdim=True)
        for name in (f"g_s.detail.out.{kind}" for kind in ("weight", "bias")):
            folded[name] = weights[name].mean(0, keepdim=True)
    return folded


def origin(weights: dict[str, Tensor], arch: Architecture) -> Architecture:
    """The architecture that weights were trained in, if they can grow from there to `arch`.

    Raises:
        InputError: If they are of another codec, or of one that has more channels of y, steps of the prior or details.
    """
    steps = sum(name.endswith("head.bias") and name.startswith("steps.") for name in map(str, weights))
    y_channels = weights.get("g_a.down.bias", torch.empty(0)).numel()
    if steps not in (2, 4) or not y_channels or y_channels % 4:
        raise InputError(f"these are no weights of a codec: {steps} context_steps and {y_channels} y_channels")
    detail = weights.get("g_s.detail.differences.bias", torch.empty(0)).numel()
    trained = replace(arch, y_channels=y_channels, context_steps=steps, detail=detail)
    for name in ("y_channels", "context_steps", "detail"):
        has, wanted = getattr(trained, name), getattr(arch, name)
        if has > wanted:
            raise InputError(f"the weights are of {has} {name}; give a recipe of as many or more, not {wanted}")
    with torch.device("meta"):
        needed = Codec(trained).state_dict()
    for name in sorted({*weights, *needed}, key=str):
        has, wanted = (str(tuple(w[name].shape)) if name in w else "missing" for w in (weights, needed))
        if has != wanted:
            raise InputError(f"{name} is {has} in the weights, {wanted} in the recipe's architecture: they must agree")
    return trained


def grown(weights: dict[str, Tensor], arch: Architecture, crops: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Weights for an architecture with more channels of y, more steps of the prior or details than they have.

    Args:
        weights: Those of a trained codec.
        arch: What they are to fit.
        crops: Gives pictures (n, c, h, w) in [-0.5, 0.5] to fit new channels to; only called if there are any.

    Raises:
        InputError: As `origin` does.
    """
    trained = Codec(origin(weights, arch))
    trained.load_state_dict(weights)
    if trained.arch.y_channels != arch.y_channels:
        trained = _with_channels(trained, arch.y_channels, crops())
    if trained.arch.context_steps != arch.context_steps:
        trained = _with_four_steps(trained)
    if trained.arch.detail != arch.detail:
        trained = _with_detail(trained, arch.detail)
    return trained.state_dict()


@torch.no_grad()
def _with_channels(trained: Codec, y_channels: int, crops: Tensor) -> Codec:
    trained.eval()  # in bfloat16, as in training, the residual would hold its noise
    codec = Codec(replace(trained.arch, y_channels=y_channels))
    old, new = trained.arch.y_channels, y_channels
    kept = kept_channels(old, new)
    added = torch.tensor(sorted(set(range(new)) - set(kept.tolist())))
    both = torch.cat([kept, kept + new])
    state, source = codec.state_dict(), trained.state_dict()
    for name, value in source.items():
        target = state[name]
        if target.shape == value.shape:
            target.copy_(value)
            continue
        for axis, (size, wanted) in enumerate(zip(value.shape, target.shape, strict=True)):
            if size != wanted:
                at = kept if size == old else both
                if name.endswith("weight"):
                    target.zero_()
                target.index_copy_(axis, at, value)
    inwards, outwards = _missing_directions(trained, crops, len(added))
    state["g_a.shortcut.weight"][added], state["g_s.shortcut.weight"][:, added] = inwards, outwards
    return codec


@torch.no_grad()
def _with_four_steps(trained: Codec) -> Codec:
    """Each of two steps becomes two, which begin as it was; what is new to the second is not looked at yet."""
    codec = Codec(replace(trained.arch, context_steps=4))
    source = trained.state_dict()
    state = codec.state_dict()
    for name, target in state.items():
        group, _, rest = name.partition(".")
        t, _, inner = rest.partition(".")
        origin = f"steps.{int(t) // 2}.{inner}" if group == "steps" else name
        if origin in source:
            target.copy_(source[origin])
        elif inner.startswith(("known.", *(f"blocks.{i}.{last}." for i in range(1, 9) for last in "ce"))):
            target.zero_()  # a block that adds nothing
    return codec


@torch.no_grad()
def _with_detail(trained: Codec, detail: int) -> Codec:
    """More units of the last layers at full size, which add nothing yet."""
    codec = Codec(replace(trained.arch, detail=detail))
    state = codec.state_dict()
    for name, value in trained.state_dict().items():
        target = state[name]
        for axis, size in enumerate(value.shape):
            target = target.narrow(axis, 0, size)
        target.copy_(value)
    return codec


def _missing_directions(codec: Codec, crops: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows for g_a's shortcut and orthonormal columns for g_s's that best restore what is lost without rounding."""
    level = torch.full((len(crops),), FIT_LEVEL)
    lost = crops - codec.g_s(codec.g_a(crops, level), level)
    x, t = (F.pixel_unshuffle(v, 16).permute(0, 2, 3, 1).flatten(0, 2).double() for v in (crops, lost))
    energy = x.T @ x
    energy.diagonal().add_(energy.trace() * RIDGE)
    fit = torch.linalg.solve(energy, x.T @ t).T
    restored = x @ fit.T
    directions = torch.linalg.eigh(restored.T @ restored)[1].flip(1)[:, :count]
    return (directions.T @ fit).float(), directions.float()
