"""Idle units of the prior: what training has left for dead is no part of an exported model.

Units that are rectified die, the more of them the longer a run is: where one gives 0 in all places it has no gradient,
and stays so. A decoder need not compute them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from calotype.learn.dyadic import DyadicBlock
from calotype.learn.model import Codec
from calotype.learn.watch import coded
from calotype.pixels import Picture, to_unit

IDLE_SHARE = 1e-3
"""An idle unit gives something else than 0 in at most this share of all places."""
LEAST_LOOKS = 45
UNITS_AT_ONCE = 16
"""What a processor computes at once: as many units are kept as are multiples of it, those that give most often."""


def without_idle_units(codec: Codec, pictures: Sequence[Picture], levels: Sequence[int]) -> Codec:
    """A codec whose prior has narrower blocks, and does the same but for what idle units gave.

    Args:
        codec: A trained one; it stays as it is.
        pictures: Of the kind that it is for; without any, no unit is idle.
        levels: At which they are looked at: many pictures at one each, in turn, few at several.
    """
    codec = deepcopy(codec).eval()
    if not pictures:
        return codec
    shares = _active_shares(codec, _looks(pictures, levels))
    for block in codec.modules():
        if isinstance(block, DyadicBlock):
            inner, wide = (_busiest(shares[layer]) for layer in (block.c, block.e))
            block.a, block.b, block.c = block.a.part(inner), block.b.part(inner), block.c.part(inputs=inner)
            block.d, block.e = block.d.part(wide), block.e.part(inputs=wide)
    return codec


def _looks(pictures: Sequence[Picture], levels: Sequence[int]) -> Iterator[tuple[Picture, int]]:
    """What is looked at at which level: every picture at so many levels that there are LEAST_LOOKS, or at all."""
    times = min(len(levels), -(-LEAST_LOOKS // len(pictures)))
    return zip((picture for picture in pictures for _ in range(times)), cycle(levels), strict=False)


@torch.no_grad()
def _active_shares(codec: Codec, looks: Iterable[tuple[Picture, int]]) -> dict[nn.Module, Tensor]:
    """In which share of all places each input of the last layers of the prior's branches is not 0."""
    active, places = defaultdict[nn.Module, Tensor | float](float), defaultdict[nn.Module, int](int)

    def count(layer: nn.Module, inputs: tuple[Tensor], _: Any) -> None:
        units = inputs[0].transpose(0, 1).flatten(1)
        active[layer] += (units != 0).sum(1)
        places[layer] += units.shape[1]

    blocks = (block for block in codec.modules() if isinstance(block, DyadicBlock))
    hooks = [layer.register_forward_hook(count) for block in blocks for layer in (block.c, block.e)]
    for picture, level in looks:
        coded(codec, torch.from_numpy(to_unit(picture.samples))[None], level)
    for hook in hooks:
        hook.remove()
    return {layer: torch.as_tensor(active[layer]) / places[layer] for layer in active}


def _busiest(share: Tensor) -> Tensor:
    """Which units are kept, in rising order."""
    busy = int((share > IDLE_SHARE).sum())
    kept = max(1, -(-busy // UNITS_AT_ONCE)) * UNITS_AT_ONCE
    return share.argsort(descending=True, stable=True)[:kept].sort().values
