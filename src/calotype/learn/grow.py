"""Give a trained codec more channels of y, keeping what it has learned.

A latent of m channels bounds the quality that the transforms can reach: what lies outside its m directions is lost at
any rate. The new channels take the shortcut past the blocks, along the directions in which the codec misses most: a
reduced-rank regression of the residual on the pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.learn.model import Codec

FIT_LEVEL = 208
"""The level at which the residual is fitted: a high one, where the loss matters."""


def kept_channels(old: int, new: int) -> Tensor:
    """Where the old channels go: both halves of y, which the prior codes in different order, keep theirs."""
    half = old // 2
    return torch.cat([torch.arange(half), torch.arange(half, old) + (new // 2 - half)])


@torch.no_grad()
def grown(trained: Codec, codec: Codec, crops: Tensor) -> dict[str, Tensor]:
    """Weights for `codec`, which differs from `trained` in more channels of y only.

    Args:
        trained: A codec with fewer channels of y.
        codec: A fresh codec; it is changed.
        crops: Pictures (n, c, h, w) in [-0.5, 0.5] to fit the new channels to.
    """
    trained.eval()  # in bfloat16, as in training, the residual would hold its noise
    old, new = trained.arch.y_channels, codec.arch.y_channels
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
    return state


def _missing_directions(codec: Codec, crops: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows for g_a's shortcut and orthonormal columns for g_s's that best restore what is lost without rounding."""
    level = torch.full((len(crops),), FIT_LEVEL)
    lost = crops - codec.g_s(codec.g_a(crops, level), level)
    x, t = (F.pixel_unshuffle(v, 16).permute(0, 2, 3, 1).flatten(0, 2).double() for v in (crops, lost))
    fit = torch.linalg.solve(x.T @ x, x.T @ t).T
    restored = x @ fit.T
    directions = torch.linalg.eigh(restored.T @ restored)[1].flip(1)[:, :count]
    return (directions.T @ fit).float(), directions.float()
