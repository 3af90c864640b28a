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

from calotype.hyper import Z_LIMIT
from calotype.learn.data import padded_to
from calotype.learn.dyadic import DyadicBlock, round_half_up
from calotype.learn.model import Codec
from calotype.pixels import Picture, to_unit
from calotype.tiling import padded

IDLE_SHARE = 1e-3
"""An idle unit gives something else than 0 in at most this share of all places."""
LEAST_PLACES = 2000
"""Where fewer were seen, no unit is taken for idle."""
LEAST_LOOKS = 45
"""Few pictures are looked at at several levels each, for high ones use other units than low ones."""
UNITS_AT_ONCE = 16
"""What a processor computes at once: as many units are kept as are multiples of it, those that give most often."""


def without_idle_units(codec: Codec, pictures: Sequence[Picture], levels: Sequence[int]) -> Codec:
    """A codec whose prior has narrower blocks, and does the same but for what idle units gave.

    Its weights may be rounded more finely, where that left room for it.

    Args:
        codec: A trained one; it stays as it is.
        pictures: Of the kind that it is for.
        levels: At which they are looked at: many pictures at one each, in turn.
    """
    codec = deepcopy(codec).eval()
    kept = _kept_units(codec, _looks(pictures, levels))
    for block in codec.modules():
        if isinstance(block, DyadicBlock) and block.c in kept:
            inner, wide = kept[block.c], kept[block.e]
            block.a, block.b, block.c = block.a.part(inner), block.b.part(inner), block.c.part(inputs=inner)
            block.d, block.e = block.d.part(wide), block.e.part(inputs=wide)
    return codec


def _looks(pictures: Sequence[Picture], levels: Sequence[int]) -> Iterator[tuple[Picture, int]]:
    """What is looked at at which level."""
    times = min(len(levels), -(-LEAST_LOOKS // max(1, len(pictures))))
    return zip((picture for picture in pictures for _ in range(times)), cycle(levels), strict=False)


def _kept_units(codec: Codec, looks: Iterable[tuple[Picture, int]]) -> dict[nn.Module, Tensor]:
    """Which inputs of the last layers of the prior's branches are not idle, where enough was seen to tell."""
    active, places = defaultdict[nn.Module, int | Tensor](int), defaultdict[nn.Module, int](int)

    def see(layer: nn.Module, inputs: tuple[Tensor], _: Any) -> None:
        units = inputs[0].transpose(0, 1).flatten(1)
        active[layer] += (units != 0).sum(1)
        places[layer] += units.shape[1]

    blocks = (block for block in codec.modules() if isinstance(block, DyadicBlock))
    hooks = [layer.register_forward_hook(see) for block in blocks for layer in (block.c, block.e)]
    for picture, level in looks:
        _predict(codec, picture, level)
    for hook in hooks:
        hook.remove()
    return {
        layer: _busiest(torch.as_tensor(active[layer]) / count)
        for layer, count in places.items()
        if count >= LEAST_PLACES
    }


@torch.no_grad()
def _predict(codec: Codec, picture: Picture, level: int) -> None:
    """Run the prior on a picture, padded as an encoder pads it."""
    x, at = torch.from_numpy(to_unit(picture.samples)).permute(1, 2, 0), torch.tensor([level])
    height, width = x.shape[:2]
    y = codec.g_a(padded_to(x, padded(height), padded(width)).permute(2, 0, 1)[None], at)
    codec.predict(y, codec.h_s(round_half_up(codec.h_a(y)).clamp(-Z_LIMIT, Z_LIMIT), at))


def _busiest(share: Tensor) -> Tensor:
    """Which units are kept, in rising order."""
    busy = int((share > IDLE_SHARE).sum())
    kept = max(1, -(-busy // UNITS_AT_ONCE)) * UNITS_AT_ONCE
    return share.argsort(descending=True, stable=True)[:kept].sort().values
